// Hidden states on a GPU, a block for each row.
#include "compiler/kernels/final_norm/FinalNorm.h"
#include "compiler/kernels/norm/NormRows.h"

namespace moe::codegen {

void FinalNorm::emit(CudaKernel &k) const {
  const int64_t width = padded(hidden);
  Ptr wanted = k.operand(Operand::Rows), h = k.operand(Operand::H), norm = k.operand(Operand::Norm),
      states = k.operand(Operand::HiddenStates);
  k.threads = 256;
  k.blocksPerSm = width <= 8192 ? 4 : 2; // a row is held in registers
  NormRows rows(k, 1, hidden, eps, Ptr{});
  k.startNext();
  k.waitForPrevious();
  k.stride(k.block(), k.rows(), k.blocks(), [&](Val r) {
    Val token = k.convert(k.load(k.offset(wanted, r * 4), k.i32()), k.i64());
    Ptr to = states + k.convert(r, k.i64()) * (hidden * 4);
    rows.run(
        1, [&](int64_t) { return h + token * (width * 4); }, norm,
        [&](int64_t, Val c, Val y) {
          if (hidden % 4 == 0) // rows begin at multiples of 16 bytes
            return k.ifThen(lt(c, hidden), [&] { k.store(k.offset(to, c * 4), y); });
          for (int64_t j = 0; j < 4; ++j)
            k.ifThen(lt(c + j, hidden), [&] { k.store(k.offset(to, (c + j) * 4), k.at(y, j)); });
        });
  });
}

} // namespace moe::codegen
