// Names and buffers of linears.
#include "compiler/kernels/linear/Linear.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

std::string CpuLinearResidual::name() const {
  return identifier(llvm::formatv("linear_residual_{0}_{1}x{2}{3}", nameOf(format), outputs, inputs,
                                  fromFloats ? "_floats" : ""));
}

// The linears of GPUs differ in what becomes of the sums, and in how they are cut.
Operands CpuLinearResidual::operands() const {
  Operands all{Operand::X, Operand::Weight, Operand::H};
  addClaims(all, weightBytes());
  return all;
}

int64_t CpuLinearResidual::bytes(Operand operand, Step) const {
  assert(operand == Operand::Counters);
  return kClaimCounterBytes;
}

template <class Linear> static std::string linearName(const char *kernel, const Linear &s) {
  return llvm::formatv("{0}_{1}_{2}x{3}", kernel, nameOf(s.format), s.outputs, s.inputs);
}

std::string CudaSmallLinearResidual::name() const {
  return identifier(linearName("linear_residual", *this) + tileName(kSmallTokens, splits));
}

int64_t CudaSmallLinearResidual::bytes(Operand operand, Step) const {
  if (operand == Operand::Partials)
    return stripsOf(outputs) * splits * kStripSumBytes;
  assert(operand == Operand::Counters);
  return stripsOf(outputs) * 4;
}

std::string CudaTiledLinearResidual::name() const {
  return identifier(linearName("linear_residual", *this) + tileName(tile));
}

std::string CudaTiledLinear::name() const {
  return identifier(linearName("linear", *this) + tileName(tile));
}

int64_t CudaTiledLinear::bytes(Operand operand, Step step) const {
  assert(operand == Operand::Sums);
  return step.tokens * outputs * 4;
}

} // namespace moe::codegen
