// Attention of a vision tower: each row of a tile sees all of them.
#ifndef MOE_COMPILER_KERNELS_TILE_ATTENTION_TILEATTENTION_H
#define MOE_COMPILER_KERNELS_TILE_ATTENTION_TILEATTENTION_H

#include "compiler/kernels/tile_attention/TileHeads.h"

namespace moe::codegen {

// softmax(q k) v of queries that are finished, as rows that feed products with weights of `output`.
struct CpuTileAttention {
  TileHeads heads;
  WeightFormat output;

  std::string name() const;
  Operands operands() const {
    return {Operand::Q, Operand::Keys, Operand::Values, Operand::AttentionOut, Operand::Counters};
  }
  int64_t bytes(Operand operand, Step step) const;
  void emit(CpuKernel &k) const;
};

} // namespace moe::codegen

#endif
