// A device that runs nothing: the least that a new device needs, and a measure of what the runtime
// itself costs a step.
//
// It takes the programs of any device. A step is checked, its program chosen and its inputs copied
// as for other devices; no kernel is called, no weight read, no image needed. All outputs are zero.
#ifndef MOE_RUNTIME_DEVICE_NULL_NULLDEVICE_H
#define MOE_RUNTIME_DEVICE_NULL_NULLDEVICE_H

#include "runtime/device/Device.h"

namespace moe::null {

// `planDevice`: whose programs it takes, "cpu" or "cuda".
Result<std::unique_ptr<Device>> openNullDevice(std::string planDevice);

} // namespace moe::null

#endif
