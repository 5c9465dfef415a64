// The weights of a plan in a GPU's memory.
#ifndef MOE_RUNTIME_DEVICE_CUDA_WEIGHTS_H
#define MOE_RUNTIME_DEVICE_CUDA_WEIGHTS_H

#include "runtime/device/Programs.h"
#include "runtime/device/cuda/Gpu.h"

#include <functional>

namespace moe::cuda {

// What the programs of a plan read of a section: its other bytes are for other devices.
struct WeightRange {
  uint64_t begin = 0, end = 0; // begin is a multiple of 256
};

// Per section of the plan; empty where nothing is read. Error: InvalidPlan if an operand is outside
// of its section.
Result<std::vector<WeightRange>> weightRanges(const DevicePlan &plan);

class Weights {
public:
  // Copies the ranges to the device and waits for it.
  static Result<Weights> upload(const Gpu &gpu, const DevicePlan &plan,
                                std::vector<WeightRange> ranges, CUstream stream,
                                const std::function<void(uint64_t, uint64_t)> &progress);
  // Where the section would begin if all of it were on the device; only the range that programs
  // read has memory behind it.
  CUdeviceptr address(uint32_t section) const {
    return memory[section].get() - ranges[section].begin;
  }

private:
  std::vector<WeightRange> ranges;
  std::vector<Memory> memory; // per section
};

} // namespace moe::cuda

#endif
