// Names and buffers of heads.
#include "compiler/kernels/head/Head.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

std::string CpuHead::name() const {
  return identifier(
      llvm::formatv("head_{0}_{1}x{2}_{3}", nameOf(format), vocabulary, hidden, digest(eps)));
}

Operands CpuHead::operands() const {
  Operands all{Operand::Rows, Operand::H, Operand::Norm, Operand::Weight, Operand::Logits};
  addClaims(all, weightBytes());
  return all;
}

int64_t CpuHead::bytes(Operand operand, Step) const {
  assert(operand == Operand::Counters);
  return kClaimCounterBytes;
}

std::string CudaSmallHead::name() const {
  return identifier(llvm::formatv("head_{0}_{1}x{2}_eps{3}{4}", nameOf(format), vocabulary, hidden,
                                  numberName(eps), tileName(kSmallTokens)));
}

std::string CudaTiledHead::name() const {
  return identifier(
      llvm::formatv("head_{0}_{1}x{2}{3}", nameOf(format), vocabulary, hidden, tileName(tile)));
}

// A count of blocks, and the best logit of each row (BestLogit.h).
static int64_t keyBytes(Operand operand, Step step) {
  assert(operand == Operand::Counters);
  return 8 + step.rows * 8;
}
int64_t CudaSmallHead::bytes(Operand operand, Step step) const { return keyBytes(operand, step); }
int64_t CudaTiledHead::bytes(Operand operand, Step step) const { return keyBytes(operand, step); }

} // namespace moe::codegen
