// The name and the buffer of layer norms.
#include "compiler/kernels/layer_norm/LayerNorm.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

std::string CpuLayerNorm::name() const {
  return identifier(llvm::formatv("layer_norm_{0}_{1}_tile{2}_eps{3}", nameOf(format), hidden,
                                  tileRows, numberName(eps)));
}

int64_t CpuLayerNorm::bytes(Operand operand, Step step) const {
  assert(operand == Operand::X);
  return step.tokens * tileRows * ActivationRow{format, hidden}.bytes();
}

} // namespace moe::codegen
