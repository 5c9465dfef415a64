// Down projections of larger steps, which add to the residual stream. With experts a token's sums
// run over the columns of the shared expert and then of its routed one.
#include "compiler/kernels/down/Down.h"
#include "compiler/targets/cuda/TiledProduct.h"

namespace moe::codegen {

void CudaTiledDown::emit(CudaKernel &k) const {
  Ptr h = k.operand(Operand::H);
  TiledPieces::Operands weights{k.operand(Operand::SharedWeight), {}, {}, {}};
  if (experts) {
    weights.routedWeight = k.operand(Operand::RoutedWeight);
    weights.order = k.operand(Operand::Order);
    weights.offsets = k.operand(Operand::Offsets);
  }
  TiledShape shape{width, hidden, shared, experts, routed};
  shape.joinsK = experts;
  TiledProduct product(k, shape, tile, k.operand(Operand::Hidden), weights);
  product.run([&](const TiledProduct::Sums &sums) { product.addTo(h, sums); });
}

} // namespace moe::codegen
