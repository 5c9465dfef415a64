// Implements the launches of the probes.
#include "tools/gpu-check/Limits.h"

namespace moe::gpucheck {

Result<Limits> measureLimits(Bench &bench, const fb::Bundle &bundle, bool quick) {
  Limits limits;
  const int64_t pieces = quick ? 4 : 16384; // 1 GiB
  const int repetitions = quick ? 1 : 30;
  MOE_ASSIGN(from, bench.filled(uint64_t(pieces * kProbePiece), 1));
  MOE_ASSIGN(to, bench.room(uint64_t(pieces * kProbePiece)));
  MOE_ASSIGN(step, bench.put(cuda::StepInfo{int32_t(pieces), 0, 1, 0}));
  const fb::Probes &probes = *bundle.probes();
  for (bool writes : {false, true}) {
    MOE_ASSIGN(kernel, bench.load(*bundle.kernels()->Get(writes ? probes.copy() : probes.read())));
    MOE_ASSIGN(time, bench.time(kernel, uint64_t(pieces), {from, to, step}, repetitions));
    const double bytes = double(pieces * kProbePiece) * (writes ? 2 : 1);
    (writes ? limits.copyBytesPerSecond : limits.readBytesPerSecond) = bytes / time.median * 1e6;
  }
  MOE_ASSIGN(kernel, bench.load(*bundle.kernels()->Get(probes.products())));
  const uint64_t blocks = uint64_t(kernel.blocksPerSm) * bench.gpu().multiprocessors;
  MOE_ASSIGN(time, bench.time(kernel, blocks, {to, step}, repetitions));
  const uint64_t warps = blocks * (kernel.threads / 32);
  limits.tensorFlops = double(warps) * probes.flops_per_warp() / time.median * 1e6;
  bench.drop();
  return limits;
}

} // namespace moe::gpucheck
