// RMSNorm and the q, k, v projections of small steps: raw sums, a part for each share of the
// columns, which the kernel of attention adds up and finishes.
#include "compiler/kernels/qkv/Qkv.h"
#include "compiler/targets/cuda/SmallProduct.h"

namespace moe::codegen {

void CudaSmallQkv::emit(CudaKernel &k) const {
  Ptr h = k.operand(Operand::H), norm = k.operand(Operand::Norm),
      weight = k.operand(Operand::Weight), sums = k.operand(Operand::Sums);
  Val count = k.tokens();
  SmallProduct product(k, rows, hidden, splits, format, weight, count);
  auto parts = product.normed(
      [&](Val t) { return h + k.convert(t, k.i64()) * (padded(hidden) * 4); }, norm, eps);
  parts.store = [&](Val strip, Val share, Val i, Val total) {
    Ptr out = sums + k.convert(share * count, k.i64()) * (rows * 4);
    Val row = product.rowOf(strip, i), column = Small::columnOf(i);
    k.ifThen(lt(row, rows) & lt(column, count), [&] {
      Val at = k.convert(column, k.i64()) * rows + k.convert(row, k.i64());
      k.store(out + at * 4, total);
    });
  };
  product.run(parts);
}

} // namespace moe::codegen
