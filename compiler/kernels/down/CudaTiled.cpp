// Down projections of larger steps, which add to the residual stream. With experts a token's sums
// run over the columns of the shared expert and then of its routed one.
#include "compiler/targets/cuda/CudaKernels.h"
#include "compiler/targets/cuda/TiledProduct.h"

namespace moe::codegen {

void emitTiledDown(CudaKernel &k, const CudaSpec &spec) {
  const auto &s = std::get<DownSpec>(spec.op);
  const bool routes = s.experts;
  Ptr hidden = k.operand(0), h = k.operand(routes ? 5 : 2);
  TiledPieces::Operands weights{k.operand(1), {}, {}, {}};
  if (routes)
    weights = {k.operand(3), k.operand(4), k.operand(1), k.operand(2)};
  TiledShape shape{s.width, s.hidden, s.shared, s.experts, s.routed};
  shape.joinsK = routes;
  TiledProduct product(k, shape, spec.tile, hidden, weights);
  product.run([&](const TiledProduct::Sums &sums) { product.addTo(h, sums); });
}

} // namespace moe::codegen
