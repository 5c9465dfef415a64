// Down projections of small steps, which add to the residual stream: the shared expert's weight,
// then the routed one's of each token.
#include "compiler/kernels/down/Down.h"
#include "compiler/targets/cuda/SmallProduct.h"

namespace moe::codegen {

void CudaSmallDown::emit(CudaKernel &k) const {
  std::optional<SmallProduct::Routed> ofExperts;
  if (experts)
    ofExperts = {k.operand(Operand::RoutedWeight), k.operand(Operand::Experts), routed};
  SmallProduct product(k, hidden, width, splits, shared, k.operand(Operand::SharedWeight),
                       k.tokens(), ofExperts);
  product.runResidual(k.operand(Operand::Hidden), k.operand(Operand::H),
                      k.operand(Operand::Partials), k.operand(Operand::Counters));
}

} // namespace moe::codegen
