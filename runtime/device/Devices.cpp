// The table of devices. A new device is one more line in it.
#include "runtime/device/Devices.h"

#include "runtime/device/cpu/CpuDevice.h"
#include "runtime/device/cuda/CudaDevice.h"
#include "runtime/device/ptxsim/Driver.h"

#include <algorithm>
#include <charconv>

namespace moe {
namespace {

struct Entry {
  std::string_view name;
  std::string_view planDevice; // whose programs it runs
  bool automatic;              // "auto" may take it
  bool numbered;               // there may be several: "cuda:1"
  Result<std::unique_ptr<Device>> (*open)(const DeviceOptions &options, int index);
};

Result<std::unique_ptr<Device>> openCpu(const DeviceOptions &options, int) {
  cpu::CpuOptions cpuOptions;
  cpuOptions.threads = options.threads;
  return cpu::openCpuDevice(std::move(cpuOptions));
}

Result<std::unique_ptr<Device>> openCuda(const DeviceOptions &options, int index) {
  MOE_ASSIGN(driver, cuda::loadDriver());
  return cuda::openCudaDevice(*driver, {"cuda", index, options.progress});
}

Result<std::unique_ptr<Device>> openPtxsim(const DeviceOptions &options, int index) {
  return cuda::openCudaDevice(ptxsim::simulatedDriver(), {"ptxsim", index, options.progress});
}

constexpr Entry devices[] = {
    {"cuda", "cuda", true, true, openCuda},
    {"cpu", "cpu", true, false, openCpu},
    {"ptxsim", "cuda", false, false, openPtxsim},
};

std::string joined(std::span<const std::string> names) {
  std::string text;
  for (const std::string &name : names)
    text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

// The number of "cuda:1", 0 for "cuda", -1 for anything else.
int indexIn(std::string_view name, const Entry &entry) {
  if (name == entry.name)
    return 0;
  if (!entry.numbered || !name.starts_with(entry.name) || name[entry.name.size()] != ':')
    return -1;
  name.remove_prefix(entry.name.size() + 1);
  int index = -1;
  auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
  return error == std::errc() && end == name.data() + name.size() && index >= 0 ? index : -1;
}

} // namespace

std::vector<std::string> deviceNames() {
  std::vector<std::string> names;
  for (const Entry &entry : devices)
    names.emplace_back(entry.name);
  return names;
}

Result<std::unique_ptr<Device>> openDevice(std::string_view name,
                                           std::span<const std::string> planDevices,
                                           const DeviceOptions &options,
                                           const std::function<Status(const Device &)> &fits) {
  auto inPlan = [&](const Entry &entry) {
    return std::find(planDevices.begin(), planDevices.end(), entry.planDevice) != planDevices.end();
  };
  if (name == "auto") {
    std::string reasons;
    std::vector<std::string> tried;
    for (const Entry &entry : devices) {
      if (!entry.automatic)
        continue;
      tried.emplace_back(entry.name);
      if (!inPlan(entry))
        continue;
      auto device = entry.open(options, 0);
      Status status = !device ? Status(device.error()) : fits ? fits(**device) : ok();
      if (status)
        return device;
      reasons += "; " + std::string(entry.name) + ": " + status.error().message;
    }
    return Error{Code::Unavailable, "no device fits: the plan is for " + joined(planDevices) +
                                        ", this program runs " + joined(tried) + reasons};
  }
  for (const Entry &entry : devices) {
    int index = indexIn(name, entry);
    if (index < 0)
      continue;
    if (!inPlan(entry))
      return Error{Code::Unavailable,
                   "the plan has no programs for device " + std::string(entry.planDevice) +
                       ", only for " + joined(planDevices) + "; compile it with another --target"};
    return entry.open(options, index);
  }
  return Error{Code::InvalidArgument, "unknown device '" + std::string(name) +
                                          "'; the devices are auto, " + joined(deviceNames())};
}

} // namespace moe
