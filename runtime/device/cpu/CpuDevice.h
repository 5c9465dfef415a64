// Runs the "cpu" programs of a plan with the machine code that is in it.
#ifndef MOE_RUNTIME_DEVICE_CPU_CPUDEVICE_H
#define MOE_RUNTIME_DEVICE_CPU_CPUDEVICE_H

#include "runtime/device/Device.h"
#include "runtime/device/cpu/KernelAbi.h"

#include <functional>

namespace moe::cpu {

struct CpuOptions {
  int threads = 0; // 0: defaultThreads()
  // For tests: the kernel of an index, instead of those in an image of the plan.
  std::function<Kernel(uint32_t kernel)> resolve;
};

Result<std::unique_ptr<Device>> openCpuDevice(CpuOptions options);

} // namespace moe::cpu

#endif
