// Runs the "cpu" programs of a plan with the machine code that is in it.
#ifndef MOE_RUNTIME_DEVICE_CPU_CPUDEVICE_H
#define MOE_RUNTIME_DEVICE_CPU_CPUDEVICE_H

#include "runtime/device/Device.h"
#include "runtime/device/cpu/KernelAbi.h"
#include "runtime/device/cpu/WeightPlacement.h"

#include <functional>

namespace moe::cpu {

inline constexpr int kMostThreads = 4096;

struct CpuOptions {
  int threads = 0; // up to kMostThreads; 0: defaultThreads()
  Numa numa = Numa::Auto;
  PlacedWeights::Progress progress{}; // of copying weights
  // For tests: the kernel of an index, instead of those in an image of the plan.
  std::function<Kernel(uint32_t kernel)> resolve{};
  // For tests: instead of those of this machine.
  std::optional<std::vector<Node>> nodes{};
};

Result<std::unique_ptr<Device>> openCpuDevice(CpuOptions options);

} // namespace moe::cpu

#endif
