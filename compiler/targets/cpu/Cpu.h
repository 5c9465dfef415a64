// CPUs as a target.
#ifndef MOE_COMPILER_TARGETS_CPU_CPU_H
#define MOE_COMPILER_TARGETS_CPU_CPU_H

#include "compiler/targets/Target.h"

namespace moe {

std::unique_ptr<Target> makeCpuTarget(const TargetOptions &options);

} // namespace moe

#endif
