// The products of larger steps whose sums are kept as they are: of q, k and v, and of the output
// projection, which adds to the residual stream.
#include "compiler/kernels/linear/Linear.h"
#include "compiler/targets/cuda/TiledProduct.h"

namespace moe::codegen {

void CudaTiledLinear::emit(CudaKernel &k) const {
  Ptr out = k.operand(Operand::Sums);
  TiledProduct product(k, {inputs, outputs, format}, tile, k.operand(Operand::X),
                       {k.operand(Operand::Weight), {}, {}, {}});
  product.run([&](const TiledProduct::Sums &sums) {
    product.eachSum(sums, out, outputs, [&](Ptr at, Val sum) { k.store(at, sum); });
  });
}

void CudaTiledLinearResidual::emit(CudaKernel &k) const {
  Ptr h = k.operand(Operand::H);
  TiledProduct product(k, {inputs, outputs, format}, tile, k.operand(Operand::X),
                       {k.operand(Operand::Weight), {}, {}, {}});
  product.run([&](const TiledProduct::Sums &sums) { product.addTo(h, sums); });
}

} // namespace moe::codegen
