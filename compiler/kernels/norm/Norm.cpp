// Names, operands and buffers of norms.
#include "compiler/kernels/norm/Norm.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

std::string CpuNorm::name() const {
  return identifier(llvm::formatv("norm_rows_{0}_{1}{2}_{3}", formatNames(shared, routed, experts),
                                  hidden, expertsName(experts, k), digest(eps)));
}

Operands CpuNorm::operands() const {
  if (!experts)
    return {Operand::H, Operand::Norm, Operand::X};
  return {Operand::H, Operand::Norm,    Operand::Router,
          Operand::X, Operand::Experts, Operand::Scores};
}

int64_t CpuNorm::bytes(Operand operand, Step step) const {
  if (operand != Operand::X)
    return step.tokens * k * 4;
  return step.tokens * rowBytesFor({shared, hidden}, {experts ? routed : shared, hidden});
}

std::string CudaNorm::name() const {
  return llvm::formatv("norm_bf16_{0}{1}_eps{2}{3}", hidden, gather ? "_rows" : "", numberName(eps),
                       tileName(kAnyTile));
}

Operands CudaNorm::operands() const {
  if (gather)
    return {Operand::Rows, Operand::H, Operand::Norm, Operand::X};
  return {Operand::H, Operand::Norm, Operand::X};
}

int64_t CudaNorm::bytes(Operand operand, Step step) const {
  assert(operand == Operand::X);
  return blocks(step) * rowBytes16(hidden);
}

} // namespace moe::codegen
