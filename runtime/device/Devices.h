// The devices that this runtime was built with, and opening one by name.
#ifndef MOE_RUNTIME_DEVICE_DEVICES_H
#define MOE_RUNTIME_DEVICE_DEVICES_H

#include "runtime/device/Device.h"

#include <string_view>

namespace moe {

struct DeviceOptions {
  int threads = 0; // of a CPU; 0: one for each processor this process may use
};

// Best first.
std::vector<std::string> deviceNames();

// Opens `name`, or for "auto" the first of deviceNames() that opens and that `planDevices` (the
// devices a plan has programs for) has.
Result<std::unique_ptr<Device>> openDevice(std::string_view name,
                                           std::span<const std::string> planDevices,
                                           const DeviceOptions &options);

} // namespace moe

#endif
