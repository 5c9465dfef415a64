// The name, the buffers and the limits of the router.
#include "compiler/kernels/router/Router.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

std::string CudaRouter::name() const {
  return llvm::formatv("router_bf16_{0}_e{1}_eps{2}{3}", hidden, experts, numberName(eps),
                       tileName(kAnyTile));
}

int64_t CudaRouter::bytes(Operand operand, Step step) const {
  switch (operand) {
  case Operand::X:
    return step.tokens * rowBytes16(hidden);
  case Operand::Offsets:
    return (experts + 1) * 4;
  case Operand::Counters:
    return 4;
  default: // Experts, Scores, Order
    return step.tokens * 4;
  }
}

std::string CudaRouter::refusal() const {
  if (experts <= 256 && hidden <= 32768)
    return "";
  return llvm::formatv(
      "{0} experts of {1} channels, and the router's kernel takes at most 256 of 32768", experts,
      hidden);
}

} // namespace moe::codegen
