// The last norm and the logits of the wanted tokens.
#include "compiler/kernels/head/Head.h"
#include "compiler/targets/cpu/CpuKernel.h"

namespace moe::codegen {

void CpuHead::emit(CpuKernel &k) const {
  k.scratchByRows();
  Ptr wanted = k.operand(Operand::Rows), h = k.operand(Operand::H), norm = k.operand(Operand::Norm),
      weight = k.operand(Operand::Weight), logits = k.operand(Operand::Logits);
  int64_t tile = k.tileTokens(format), width = padded(hidden);
  const ActivationRow row{format, hidden};
  int64_t panels = padded(vocabulary) / kPanel, lastRows = vocabulary % kPanel;
  Ptr x = k.scratch(0, row.bytes()), out = k.scratch(tile * kPanel * 4), ids = k.identity();
  k.loop(k.i64(0), k.rows, 1, [&](Val r) {
    Val token = k.convert((wanted + r * 4).load(k.i32()), k.i64());
    k.normRow(h + token * (width * 4), norm, eps, row, x + r * row.bytes());
  });
  const int64_t bytes = panelBytes(format, hidden);
  k.parts(k.i64(panels), k.claims(bytes), [&](Val first, Val last) {
    k.loop(first, last, 1, [&](Val panel) {
      k.loop(k.i64(0), k.rows, tile, [&](Val r) {
        Val count = min(k.rows - r, k.i64(tile));
        k.product(format, {x, row.bytes(), ids + r * 4}, count, weight + panel * bytes, hidden,
                  {out, kPanel * 4, ids},
                  /*add=*/false, k.turn(r, k.rows, tile));
        auto copy = [&](int64_t rows) {
          k.loop(k.i64(0), count, 1, [&](Val i) {
            Ptr to = logits + (r + i) * (vocabulary * 4) + panel * (kPanel * 4);
            k.channels(rows, [&](Val c, int64_t lanes) {
              (to + c * 4).store((out + i * (kPanel * 4) + c * 4).load(k.vec(lanes, k.f32())));
            });
          });
        };
        if (lastRows == 0)
          return copy(kPanel);
        k.ifThen(lt(panel, panels - 1), [&] { copy(kPanel); });
        k.ifThen(eq(panel, panels - 1), [&] { copy(lastRows); });
      });
    });
  });
}

} // namespace moe::codegen
