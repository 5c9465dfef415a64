// The table of devices. A new device is one more line in it.
#include "runtime/device/Devices.h"

#include "runtime/device/cpu/CpuDevice.h"
#include "runtime/device/cuda/CudaDevice.h"
#include "runtime/device/null/NullDevice.h"
#include "runtime/device/ptxsim/Driver.h"

#include <algorithm>
#include <charconv>

namespace moe {
namespace {

// Which device of an entry is meant.
struct Place {
  int index = 0;          // of several: "cuda:1"
  std::string planDevice; // whose programs it runs
};

struct Entry {
  std::string_view name;
  std::string_view planDevice; // whose programs it runs; empty: any's, "null:cuda"
  bool automatic;              // "auto" may take it
  bool numbered;               // there may be several: "cuda:1"
  Result<std::unique_ptr<Device>> (*open)(const DeviceOptions &options, const Place &place);
};

Result<std::unique_ptr<Device>> openCpu(const DeviceOptions &options, const Place &) {
  cpu::CpuOptions cpuOptions;
  cpuOptions.threads = options.threads;
  cpuOptions.numa = options.numa;
  cpuOptions.progress = options.progress;
  return cpu::openCpuDevice(std::move(cpuOptions));
}

Result<std::unique_ptr<Device>> openCuda(const DeviceOptions &options, const Place &place) {
  MOE_ASSIGN(driver, cuda::loadDriver());
  return cuda::openCudaDevice(*driver, {"cuda", place.index, options.progress});
}

Result<std::unique_ptr<Device>> openPtxsim(const DeviceOptions &options, const Place &place) {
  return cuda::openCudaDevice(ptxsim::simulatedDriver(), {"ptxsim", place.index, options.progress});
}

Result<std::unique_ptr<Device>> openNull(const DeviceOptions &, const Place &place) {
  return null::openNullDevice(place.planDevice);
}

constexpr Entry devices[] = {
    {"cuda", "cuda", true, true, openCuda},
    {"cpu", "cpu", true, false, openCpu},
    {"ptxsim", "cuda", false, false, openPtxsim},
    {"null", "", false, false, openNull},
};

std::string joined(std::span<const std::string> names) {
  std::string text;
  for (const std::string &name : names)
    text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

// What `name` means as a device of the entry: "cuda", "cuda:1", "null", "null:cuda". Nothing if it
// is none of them.
std::optional<Place> placeIn(std::string_view name, const Entry &entry,
                             std::span<const std::string> planDevices) {
  const bool any = entry.planDevice.empty();
  Place place{0, std::string(entry.planDevice)};
  if (name == entry.name) {
    if (any)
      place.planDevice = planDevices.empty() ? name : planDevices.front();
    return place;
  }
  if (!name.starts_with(entry.name) || name[entry.name.size()] != ':')
    return std::nullopt;
  name.remove_prefix(entry.name.size() + 1);
  if (any) {
    place.planDevice = name;
    return name.empty() ? std::nullopt : std::optional(place);
  }
  auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), place.index);
  if (!entry.numbered || error != std::errc() || end != name.data() + name.size() ||
      place.index < 0)
    return std::nullopt;
  return place;
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
  auto inPlan = [&](std::string_view device) {
    return std::find(planDevices.begin(), planDevices.end(), device) != planDevices.end();
  };
  if (name == "auto") {
    std::string reasons;
    std::vector<std::string> tried;
    for (const Entry &entry : devices) {
      if (!entry.automatic)
        continue;
      tried.emplace_back(entry.name);
      if (!inPlan(entry.planDevice))
        continue;
      auto device = entry.open(options, {0, std::string(entry.planDevice)});
      Status status = !device ? Status(device.error()) : fits ? fits(**device) : ok();
      if (status)
        return device;
      reasons += "; " + std::string(entry.name) + ": " + status.error().message;
    }
    return Error{Code::Unavailable, "no device fits: the plan is for " + joined(planDevices) +
                                        ", this program runs " + joined(tried) + reasons};
  }
  for (const Entry &entry : devices) {
    std::optional<Place> place = placeIn(name, entry, planDevices);
    if (!place)
      continue;
    if (!inPlan(place->planDevice))
      return Error{Code::Unavailable, "the plan has no programs for device " + place->planDevice +
                                          ", only for " + joined(planDevices) +
                                          "; compile it with another --target"};
    return entry.open(options, *place);
  }
  return Error{Code::InvalidArgument, "unknown device '" + std::string(name) +
                                          "'; the devices are auto, " + joined(deviceNames())};
}

} // namespace moe
