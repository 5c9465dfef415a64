// Names, operands and buffers of attention.
#include "compiler/kernels/attention/Attention.h"
#include "compiler/kernels/attention/AttentionLayout.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

std::string nameOf(const CacheSpec &c) {
  std::string name =
      llvm::formatv("{0}_{1}x{2}_p{3}", nameOf(c.storage), c.heads, c.headDim, c.pageBytes);
  return c.chunk ? name + "_c" + std::to_string(c.chunk) : name;
}

std::string CpuAttention::name() const {
  return identifier(llvm::formatv("attention_{0}_h{1}_{2}", nameOf(cache), heads, nameOf(output)));
}

int64_t CpuAttention::bytes(Operand operand, Step step) const {
  if (operand == Operand::Counters) // who has left, and who claimed what
    return 128;
  assert(operand == Operand::AttentionOut);
  return step.tokens * outputBytes();
}

// Of a token: pieces of work, each of the query heads that a block attends with together.
static int64_t headPieces(const FinishSpec &f, int64_t rows) {
  return f.heads / headsTogether(f.heads / f.cache.heads, rows);
}

std::string CudaFusedAttention::name() const {
  return "attention_" + nameOf(finish) + tileName(kSmallTokens, splits);
}

Operands CudaFusedAttention::operands() const {
  Operands all{Operand::Positions, Operand::Sequences,    Operand::BlockTable, Operand::Sums,
               Operand::Cache,     Operand::AttentionOut, Operand::Partials,   Operand::Counters};
  if (finish.rope)
    all.push_back(Operand::RopeTable);
  return all;
}

int64_t CudaFusedAttention::bytes(Operand operand, Step step) const {
  if (operand == Operand::Partials) // sums, a maximum and a total
    return kSmallTokens * finish.heads * splits * (finish.cache.headDim + 2) * 4;
  if (operand == Operand::Counters)
    return kSmallTokens * headPieces(finish, fusedRows(finish.cache.headDim)) * 4;
  assert(operand == Operand::AttentionOut);
  return step.tokens * rowBytes16(finish.channels());
}

int64_t CudaFusedAttention::blocks(Step step) const {
  return step.tokens * headPieces(finish, fusedRows(finish.cache.headDim)) * splits;
}

std::string CudaTiledAttention::name() const {
  return "attention_" + nameOf(finish) + tileName(kAnyTile);
}

int64_t CudaTiledAttention::bytes(Operand operand, Step step) const {
  assert(operand == Operand::AttentionOut);
  return step.tokens * rowBytes16(finish.channels());
}

int64_t CudaTiledAttention::blocks(Step step) const {
  return step.tokens * headPieces(finish, kTiledRows);
}

} // namespace moe::codegen
