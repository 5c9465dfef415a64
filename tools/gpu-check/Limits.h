// What the device at hand can do: the limits that kernels are measured against.
#ifndef MOE_TOOLS_GPU_CHECK_LIMITS_H
#define MOE_TOOLS_GPU_CHECK_LIMITS_H

#include "tools/gpu-check/Bench.h"

namespace moe::gpucheck {

// Each token of a step of the probes `read` and `copy` is so many bytes.
inline constexpr int64_t kProbePiece = 64 << 10;

struct Limits {
  double copyBytesPerSecond = 0; // read and written, together
  double readBytesPerSecond = 0;
  double tensorFlops = 0; // bf16 products with float32 sums, mma.sync
};

// `quick`: small and few, to see that it works.
Result<Limits> measureLimits(Bench &bench, const fb::Bundle &bundle, bool quick);

} // namespace moe::gpucheck

#endif
