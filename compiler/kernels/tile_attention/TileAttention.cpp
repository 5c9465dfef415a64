// Names and buffers of the attention of tiles.
#include "compiler/kernels/tile_attention/TileAttention.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

std::string nameOf(const TileHeads &heads) {
  return llvm::formatv("{0}_{1}x{2}_tile{3}", nameOf(heads.storage), heads.heads, heads.headDim,
                       heads.rows);
}

std::string CpuTileAttention::name() const {
  return identifier(llvm::formatv("tile_attention_{0}_to_{1}", nameOf(heads), nameOf(output)));
}

int64_t CpuTileAttention::bytes(Operand operand, Step step) const {
  if (operand == Operand::Counters)
    return kClaimCounterBytes;
  assert(operand == Operand::AttentionOut);
  return step.tokens * heads.rows * ActivationRow{output, heads.channels()}.bytes();
}

} // namespace moe::codegen
