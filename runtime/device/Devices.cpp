// The table of devices. A new device is one more line in it.
#include "runtime/device/Devices.h"

#include "runtime/device/cpu/CpuDevice.h"

#include <algorithm>

namespace moe {
namespace {

struct Entry {
  std::string_view name;
  Result<std::unique_ptr<Device>> (*open)(const DeviceOptions &options);
};

Result<std::unique_ptr<Device>> openCpu(const DeviceOptions &options) {
  cpu::CpuOptions cpuOptions;
  cpuOptions.threads = options.threads;
  return cpu::openCpuDevice(std::move(cpuOptions));
}

constexpr Entry devices[] = {{"cpu", openCpu}};

std::string joined(std::span<const std::string> names) {
  std::string text;
  for (const std::string &name : names)
    text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
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
                                           const DeviceOptions &options) {
  auto inPlan = [&](std::string_view device) {
    return std::find(planDevices.begin(), planDevices.end(), device) != planDevices.end();
  };
  if (name == "auto") {
    std::string reasons;
    for (const Entry &entry : devices) {
      if (!inPlan(entry.name))
        continue;
      auto device = entry.open(options);
      if (device)
        return device;
      reasons += "; " + std::string(entry.name) + ": " + device.error().message;
    }
    return Error{Code::Unavailable, "no device fits: the plan is for " + joined(planDevices) +
                                        ", this program runs " + joined(deviceNames()) + reasons};
  }
  for (const Entry &entry : devices) {
    if (entry.name != name)
      continue;
    if (!inPlan(name))
      return Error{Code::Unavailable, "the plan has no programs for device " + std::string(name) +
                                          ", only for " + joined(planDevices) +
                                          "; compile it with another --target"};
    return entry.open(options);
  }
  return Error{Code::InvalidArgument, "unknown device '" + std::string(name) +
                                          "'; the devices are auto, " + joined(deviceNames())};
}

} // namespace moe
