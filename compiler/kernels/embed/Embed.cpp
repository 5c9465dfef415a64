// The name and the buffer of the embedding.
#include "compiler/kernels/embed/Embed.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

std::string Embed::name() const {
  return identifier(llvm::formatv("embed_{0}_{1}", nameOf(format), hidden));
}

int64_t Embed::bytes(Operand operand, Step step) const {
  assert(operand == Operand::H);
  return step.tokens * padded(hidden) * 4;
}

} // namespace moe::codegen
