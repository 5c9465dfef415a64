// What the device at hand can do: the limits that kernels are measured against.
#ifndef MOE_TOOLS_GPU_CHECK_PROBES_H
#define MOE_TOOLS_GPU_CHECK_PROBES_H

#include "tools/gpu-check/Bench.h"

namespace moe::gpucheck {

struct Limits {
  double copyBytesPerSecond = 0; // read and written, together
  double readBytesPerSecond = 0;
  double tensorFlops = 0; // bf16 products with float32 sums, mma.sync
};

// `quick`: small and few, to see that it works.
llvm::Expected<Limits> measureLimits(Bench &bench, bool quick);

} // namespace moe::gpucheck

#endif
