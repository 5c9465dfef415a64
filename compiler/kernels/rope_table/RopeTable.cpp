// The name and the buffer of the rotary table.
#include "compiler/kernels/rope_table/RopeTable.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

std::string RopeTable::name() const {
  return llvm::formatv("rope_table_f32_{0}_{1}", 2 * frequencies.size(), digest(frequencies));
}

int64_t RopeTable::bytes(Operand operand, Step step) const {
  assert(operand == Operand::RopeTable);
  return step.tokens * padded(2 * frequencies.size()) * 4;
}

} // namespace moe::codegen
