// The output projection, added to the residual stream.
#include "compiler/targets/cpu/CpuKernel.h"
#include "compiler/targets/cpu/Kernels.h"

namespace moe::codegen {

void emitLinearResidual(CpuKernel &k, const LinearResidualSpec &s) {
  Ptr x = k.operand(0), weight = k.operand(1), h = k.operand(2);
  int64_t tile = k.target.tileTokens, stride = ActivationRow{s.format, s.inputs}.bytes();
  Ptr ids = k.identity();
  if (s.fromFloats) {
    const ActivationRow row{s.format, s.inputs};
    Ptr rows = k.scratch(0, row.bytes());
    k.loop(k.i64(0), k.tokens, 1, [&](Val t) {
      k.activationRow(x + t * (padded(s.inputs) * 4), row, rows + t * row.bytes());
    });
    x = rows;
  }
  auto [first, last] = k.share(k.i64(padded(s.outputs) / kPanel));
  k.loop(first, last, 1, [&](Val panel) {
    k.loop(k.i64(0), k.tokens, tile, [&](Val t) {
      Val count = min(k.tokens - t, k.i64(tile));
      k.product(s.format, {x, stride, ids + t * 4}, count,
                weight + panel * panelBytes(s.format, s.inputs), s.inputs,
                {h + panel * (kPanel * 4), padded(s.outputs) * 4, ids + t * 4}, /*add=*/true,
                k.turn(t, k.tokens));
    });
  });
}

} // namespace moe::codegen
