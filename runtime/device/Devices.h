// The devices that this runtime was built with, and opening one by name.
#ifndef MOE_RUNTIME_DEVICE_DEVICES_H
#define MOE_RUNTIME_DEVICE_DEVICES_H

#include "runtime/device/Device.h"
#include "runtime/device/cpu/Nodes.h"

#include <functional>
#include <string_view>

namespace moe {

struct DeviceOptions {
  int threads = 0; // of a CPU; 0: one for each core that this process may use
  // Told how many bytes of the weights are in the device's own memory, or in a CPU's copies.
  std::function<void(uint64_t done, uint64_t total)> progress{};
  cpu::Numa numa = cpu::Numa::Auto; // of a CPU: where weights lie
};

// Best first; then what "auto" never takes: simulators, and "null", which runs nothing.
std::vector<std::string> deviceNames();

// Opens `name`, which may say which one of several, "cuda:1", or for "null" whose programs it takes
// where not the first of `planDevices`: "null:cuda". For "auto" it opens the first that
// `planDevices` (the devices a plan has programs for) has, that opens, and that `fits`, where
// given.
Result<std::unique_ptr<Device>>
openDevice(std::string_view name, std::span<const std::string> planDevices,
           const DeviceOptions &options,
           const std::function<Status(const Device &)> &fits = nullptr);

} // namespace moe

#endif
