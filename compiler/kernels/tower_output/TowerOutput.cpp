// The name and the buffer of a tower's output.
#include "compiler/kernels/tower_output/TowerOutput.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

std::string CpuTowerOutput::name() const {
  return identifier(llvm::formatv("tower_output_{0}_{1}_grid{2}_eps{3}", nameOf(format), hidden,
                                  grid, numberName(eps)));
}

int64_t CpuTowerOutput::bytes(Operand operand, Step step) const {
  assert(operand == Operand::X);
  return step.tokens * rows() * ActivationRow{format, 4 * hidden}.bytes();
}

} // namespace moe::codegen
