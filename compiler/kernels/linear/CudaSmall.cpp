// The output projection of small steps, which adds to the residual stream.
#include "compiler/kernels/linear/Linear.h"
#include "compiler/targets/cuda/SmallProduct.h"

namespace moe::codegen {

void CudaSmallLinearResidual::emit(CudaKernel &k) const {
  SmallProduct product(k, outputs, inputs, splits, format, k.operand(Operand::Weight), k.tokens());
  product.runResidual(k.operand(Operand::X), k.operand(Operand::H), k.operand(Operand::Partials),
                      k.operand(Operand::Counters));
}

} // namespace moe::codegen
