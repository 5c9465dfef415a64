// Names, operands and buffers of down.
#include "compiler/kernels/down/Down.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

template <class Down> static std::string downName(const Down &s) {
  return llvm::formatv("down_{0}_{1}x{2}{3}", formatNames(s.shared, s.routed, s.experts), s.hidden,
                       s.width, expertsName(s.experts, s.k));
}

std::string CpuDown::name() const { return identifier(downName(*this)); }

Operands CpuDown::operands() const {
  Operands all{Operand::Hidden, Operand::SharedWeight, Operand::H};
  if (experts)
    all.append({Operand::Experts, Operand::RoutedWeight});
  addClaims(all, weightBytes());
  return all;
}

int64_t CpuDown::bytes(Operand operand, Step) const {
  assert(operand == Operand::Counters);
  return kClaimCounterBytes;
}

std::string CudaSmallDown::name() const {
  return identifier(downName(*this) + tileName(kSmallTokens, splits));
}

Operands CudaSmallDown::operands() const {
  if (!experts)
    return {Operand::Hidden, Operand::SharedWeight, Operand::H, Operand::Partials,
            Operand::Counters};
  return {Operand::Hidden, Operand::Experts,  Operand::SharedWeight, Operand::RoutedWeight,
          Operand::H,      Operand::Partials, Operand::Counters};
}

int64_t CudaSmallDown::bytes(Operand operand, Step) const {
  if (operand == Operand::Partials)
    return stripsOf(hidden) * shares() * kStripSumBytes;
  assert(operand == Operand::Counters);
  return stripsOf(hidden) * 4;
}

std::string CudaTiledDown::name() const { return identifier(downName(*this) + tileName(tile)); }

Operands CudaTiledDown::operands() const {
  if (!experts)
    return {Operand::Hidden, Operand::SharedWeight, Operand::H};
  return {Operand::Hidden,       Operand::Order,        Operand::Offsets,
          Operand::SharedWeight, Operand::RoutedWeight, Operand::H};
}

} // namespace moe::codegen
