// The output projection, added to the residual stream.
#include "compiler/kernels/linear/Linear.h"
#include "compiler/targets/cpu/CpuKernel.h"

namespace moe::codegen {

void CpuLinearResidual::emit(CpuKernel &k) const {
  Ptr x = k.operand(Operand::X), weight = k.operand(Operand::Weight), h = k.operand(Operand::H);
  int64_t tile = k.tileTokens(format), stride = ActivationRow{format, inputs}.bytes();
  Ptr ids = k.identity();
  if (fromFloats) {
    const ActivationRow row{format, inputs};
    Ptr rows = k.scratch(0, row.bytes());
    k.loop(k.i64(0), k.tokens, 1, [&](Val t) {
      k.activationRow(x + t * (padded(inputs) * 4), row, rows + t * row.bytes());
    });
    x = rows;
  }
  const int64_t bytes = panelBytes(format, inputs);
  k.parts(k.i64(padded(outputs) / kPanel), k.claims(bytes), [&](Val first, Val last) {
    k.loop(first, last, 1, [&](Val panel) {
      k.loop(k.i64(0), k.tokens, tile, [&](Val t) {
        Val count = min(k.tokens - t, k.i64(tile));
        k.product(format, {x, stride, ids + t * 4}, count, weight + panel * bytes, inputs,
                  {h + panel * (kPanel * 4), padded(outputs) * 4, ids + t * 4}, /*add=*/true,
                  k.turn(t, k.tokens, tile));
      });
    });
  });
}

} // namespace moe::codegen
