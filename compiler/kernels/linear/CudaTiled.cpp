// The products of larger steps whose sums are kept as they are: of q, k and v, and of the output
// projection, which adds to the residual stream.
#include "compiler/targets/cuda/CudaKernels.h"
#include "compiler/targets/cuda/TiledProduct.h"

namespace moe::codegen {

void emitTiledProjection(CudaKernel &k, const CudaSpec &spec) {
  const auto &s = std::get<LinearSpec>(spec.op);
  Ptr x = k.operand(0), weight = k.operand(1), out = k.operand(2);
  TiledProduct product(k, {s.inputs, s.outputs, s.format}, spec.tile, x, {weight, {}, {}, {}});
  product.run([&](const TiledProduct::Sums &sums) {
    product.eachSum(sums, out, s.outputs, [&](Ptr at, Val sum) { k.store(at, sum); });
  });
}

void emitTiledResidual(CudaKernel &k, const CudaSpec &spec) {
  const auto &s = std::get<LinearResidualSpec>(spec.op);
  Ptr x = k.operand(0), weight = k.operand(1), h = k.operand(2);
  TiledProduct product(k, {s.inputs, s.outputs, s.format}, spec.tile, x, {weight, {}, {}, {}});
  product.run([&](const TiledProduct::Sums &sums) { product.addTo(h, sums); });
}

} // namespace moe::codegen
