// NVIDIA GPUs as a target.
#ifndef MOE_COMPILER_TARGETS_CUDA_CUDA_H
#define MOE_COMPILER_TARGETS_CUDA_CUDA_H

#include "compiler/targets/Target.h"

namespace moe {

std::unique_ptr<Target> makeCudaTarget(const TargetOptions &options);

} // namespace moe

#endif
