// Names, operands and the buffer of the embedding.
#include "compiler/kernels/embed/Embed.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

std::string Embed::name() const {
  return identifier(
      llvm::formatv("embed_{0}_{1}{2}", nameOf(format), hidden, images ? "_images" : ""));
}

Operands Embed::operands() const {
  Operands all{Operand::Tokens, Operand::Embedding, Operand::H};
  if (images)
    all.append({Operand::ImageRows, Operand::Images});
  return all;
}

int64_t Embed::bytes(Operand operand, Step step) const {
  assert(operand == Operand::H);
  return step.tokens * padded(hidden) * 4;
}

} // namespace moe::codegen
