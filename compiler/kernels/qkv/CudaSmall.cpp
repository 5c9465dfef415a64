// RMSNorm and the q, k, v projections of small steps: raw sums, a part for each share of the
// columns, which the kernel of attention adds up and finishes.
#include "compiler/targets/cuda/CudaKernels.h"
#include "compiler/targets/cuda/SmallProduct.h"

namespace moe::codegen {

void emitSmallQkv(CudaKernel &k, const CudaSpec &spec) {
  const auto &s = std::get<CudaQkvSpec>(spec.op);
  Ptr h = k.operand(0), norm = k.operand(1), weight = k.operand(2), sums = k.operand(3);
  Val count = k.tokens();
  SmallProduct product(k, s.rows, s.hidden, spec.splits, s.format, weight, count);
  auto parts = product.normed(
      [&](Val t) { return h + k.convert(t, k.i64()) * (padded(s.hidden) * 4); }, norm, s.eps);
  parts.store = [&](Val strip, Val share, Val i, Val total) {
    Ptr out = sums + k.convert(share * count, k.i64()) * (s.rows * 4);
    Val row = product.rowOf(strip, i), column = Small::columnOf(i);
    k.ifThen(lt(row, s.rows) & lt(column, count), [&] {
      Val at = k.convert(column, k.i64()) * s.rows + k.convert(row, k.i64());
      k.store(out + at * 4, total);
    });
  };
  product.run(parts);
}

} // namespace moe::codegen
