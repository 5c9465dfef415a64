// Hidden states on a CPU, a share of the rows for each worker.
#include "compiler/kernels/final_norm/FinalNorm.h"
#include "compiler/targets/cpu/CpuKernel.h"

namespace moe::codegen {

void FinalNorm::emit(CpuKernel &k) const {
  Ptr rows = k.operand(Operand::Rows), h = k.operand(Operand::H), norm = k.operand(Operand::Norm),
      states = k.operand(Operand::HiddenStates);
  const int64_t width = padded(hidden);
  Ptr row = k.scratch(width * 4); // with the padding that a norm writes and an output has not
  auto [first, last] = k.share(k.rows);
  k.loop(first, last, 1, [&](Val r) {
    Val token = k.convert((rows + r * 4).load(k.i32()), k.i64());
    k.normRow(h + token * (width * 4), norm, hidden, eps, Storage::F32, row);
    Ptr to = states + r * (hidden * 4);
    k.channels(hidden, [&](Val c, int64_t lanes) {
      (to + c * 4).store((row + c * 4).load(k.vec(lanes, k.f32())));
    });
  });
}

} // namespace moe::codegen
