// Names, operands and buffers of gate and up.
#include "compiler/kernels/gate_up/GateUp.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

std::string CpuGateUp::name() const {
  return identifier(
      llvm::formatv("gate_up_{0}_to_{1}_{2}x{3}{4}{5}_{6}", formatNames(shared, routed, experts),
                    formatNames(sharedDown, routedDown, experts), width, hidden,
                    expertsName(experts, k), prepared ? "_prepared" : "", digest(eps)));
}

Operands CpuGateUp::operands() const {
  Operands all;
  if (prepared) {
    all.push_back(Operand::X);
    if (experts)
      all.append({Operand::Experts, Operand::Scores});
  } else {
    all.append({Operand::H, Operand::Norm});
    if (experts)
      all.push_back(Operand::Router);
  }
  all.push_back(Operand::SharedWeight);
  if (experts)
    all.push_back(Operand::RoutedWeight);
  all.push_back(Operand::Hidden);
  if (experts && !prepared)
    all.push_back(Operand::Experts);
  addClaims(all, weightBytes());
  return all;
}

int64_t CpuGateUp::bytes(Operand operand, Step step) const {
  if (operand == Operand::Experts)
    return step.tokens * k * 4;
  if (operand == Operand::Counters)
    return kClaimCounterBytes;
  assert(operand == Operand::Hidden);
  ActivationRow own{sharedDown, width}, others{routedDown, width};
  return step.tokens * (own.bytes() + (experts ? k * others.bytes() : 0));
}

// The two of GPUs differ in how they are cut alone.
template <class GateUp> static std::string gateUpName(const GateUp &s) {
  return llvm::formatv("gate_up_{0}_{1}x{2}{3}_eps{4}", formatNames(s.shared, s.routed, s.experts),
                       s.width, s.hidden, expertsName(s.experts, s.k), numberName(s.eps));
}
template <class GateUp> static int64_t hiddenBytes(const GateUp &s, Step step) {
  return (s.experts ? 2 : 1) * step.tokens * rowBytes16(s.width);
}

std::string CudaSmallGateUp::name() const {
  return identifier(gateUpName(*this) + tileName(kSmallTokens));
}

Operands CudaSmallGateUp::operands() const {
  if (!experts)
    return {Operand::H, Operand::Norm, Operand::SharedWeight, Operand::Hidden};
  return {Operand::H,
          Operand::Norm,
          Operand::Router,
          Operand::SharedWeight,
          Operand::RoutedWeight,
          Operand::Hidden,
          Operand::Experts,
          Operand::ExpertLogits,
          Operand::Counters};
}

int64_t CudaSmallGateUp::bytes(Operand operand, Step step) const {
  switch (operand) {
  case Operand::Experts:
    return step.tokens * 4;
  case Operand::ExpertLogits:
    return experts * kSmallTokens * 4;
  case Operand::Counters:
    return 8;
  default:
    assert(operand == Operand::Hidden);
    return hiddenBytes(*this, step);
  }
}

std::string CudaTiledGateUp::name() const { return identifier(gateUpName(*this) + tileName(tile)); }

Operands CudaTiledGateUp::operands() const {
  if (!experts)
    return {Operand::X, Operand::SharedWeight, Operand::Hidden};
  return {Operand::X,       Operand::Scores,       Operand::Order,
          Operand::Offsets, Operand::SharedWeight, Operand::RoutedWeight,
          Operand::Hidden};
}

int64_t CudaTiledGateUp::bytes(Operand operand, Step step) const {
  assert(operand == Operand::Hidden);
  return hiddenBytes(*this, step);
}

} // namespace moe::codegen
