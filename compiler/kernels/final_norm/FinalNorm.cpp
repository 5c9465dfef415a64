// The name of the norm that gives hidden states.
#include "compiler/kernels/final_norm/FinalNorm.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

std::string FinalNorm::name() const {
  return llvm::formatv("final_norm_{0}_eps{1}", hidden, numberName(eps));
}

} // namespace moe::codegen
