// The output projection, added to the residual stream.
#include "compiler/codegen/Kernels.h"
#include "compiler/codegen/cpu/CpuKernel.h"

namespace moe::codegen {

void emitLinearResidual(CpuKernel &k, const LinearResidualSpec &s) {
  Ptr x = k.operand(0), weight = k.operand(1), h = k.operand(2);
  int64_t tile = k.target.tileTokens, stride = ActivationRow{s.format, s.inputs}.bytes();
  Ptr out = k.scratch(tile * kPanel * 4), ids = k.identity();
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
      auto to = [&](Val i) { return h + (t + i) * (padded(s.outputs) * 4) + panel * (kPanel * 4); };
      k.loop(k.i64(0), count, 1, [&](Val i) { k.fetchPanel(to(i)); });
      k.product(s.format, {x, stride, ids + t * 4}, count,
                weight + panel * panelBytes(s.format, s.inputs), s.inputs, out, kPanel * 4,
                /*accumulate=*/false, Turn{t / tile, (k.tokens + (tile - 1)) / tile});
      k.loop(k.i64(0), count, 1, [&](Val i) { k.addPanel(out + i * (kPanel * 4), to(i)); });
    });
  });
}

} // namespace moe::codegen
