// Names, operands and buffers of a tower's linear layers.
#include "compiler/kernels/projection/Projection.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

std::string CpuProjection::name() const {
  std::string into = to == To::Stream ? "stream" : to == To::Images ? "images" : nameOf(next);
  return identifier(llvm::formatv("projection_{0}_to_{1}_{2}x{3}_tile{4}{5}{6}", nameOf(format),
                                  into, outputs, inputs, rows, bias ? "_bias" : "",
                                  gelu ? "_gelu" : ""));
}

Operands CpuProjection::operands() const {
  Operands all{Operand::X, Operand::Weight};
  if (bias)
    all.push_back(Operand::Bias);
  all.push_back(to == To::Stream   ? Operand::H
                : to == To::Images ? Operand::Images
                                   : Operand::Hidden);
  all.push_back(Operand::Counters);
  return all;
}

int64_t CpuProjection::bytes(Operand operand, Step step) const {
  if (operand == Operand::Counters)
    return kClaimCounterBytes;
  assert(operand == Operand::Hidden && to == To::Rows);
  return step.tokens * rows * ActivationRow{next, outputs}.bytes();
}

std::string CpuTowerQkv::name() const {
  return identifier(llvm::formatv("tower_qkv_{0}_{1}_{2}_grid{3}_theta{4}", nameOf(format), hidden,
                                  nameOf(heads), grid, numberName(theta)));
}

int64_t CpuTowerQkv::bytes(Operand operand, Step step) const {
  switch (operand) {
  case Operand::Q:
    return step.tokens * heads.queriesBytes();
  case Operand::Keys:
    return step.tokens * heads.keysBytes();
  case Operand::Values:
    return step.tokens * heads.valuesBytes();
  default:
    assert(operand == Operand::Counters);
    return kClaimCounterBytes;
  }
}

} // namespace moe::codegen
