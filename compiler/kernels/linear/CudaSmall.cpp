// The output projection of small steps, which adds to the residual stream.
#include "compiler/targets/cuda/CudaKernels.h"
#include "compiler/targets/cuda/SmallProduct.h"

namespace moe::codegen {

void emitSmallResidual(CudaKernel &k, const CudaSpec &spec) {
  const auto &s = std::get<LinearResidualSpec>(spec.op);
  Ptr x = k.operand(0), weight = k.operand(1), h = k.operand(2), partials = k.operand(3),
      counters = k.operand(4);
  SmallProduct product(k, s.outputs, s.inputs, spec.splits, s.format, weight, k.tokens());
  product.runResidual(x, h, partials, counters);
}

} // namespace moe::codegen
