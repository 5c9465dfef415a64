// Down projections of small steps, which add to the residual stream: the shared expert's weight,
// then the routed one's of each token.
#include "compiler/targets/cuda/CudaKernels.h"
#include "compiler/targets/cuda/SmallProduct.h"

namespace moe::codegen {

void emitSmallDown(CudaKernel &k, const CudaSpec &spec) {
  const auto &s = std::get<DownSpec>(spec.op);
  const bool routes = s.experts;
  Ptr hidden = k.operand(0), weight = k.operand(routes ? 2 : 1), h = k.operand(routes ? 4 : 2),
      partials = k.operand(routes ? 5 : 3), counters = k.operand(routes ? 6 : 4);
  std::optional<SmallProduct::Routed> routed;
  if (routes)
    routed = {k.operand(3), k.operand(1), s.routed};
  SmallProduct product(k, s.hidden, s.width, spec.splits, s.shared, weight, k.tokens(), routed);
  product.runResidual(hidden, h, partials, counters);
}

} // namespace moe::codegen
