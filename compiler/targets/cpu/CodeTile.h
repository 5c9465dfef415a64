// One tile of the product of activations with a panel of codes: I8 and I4 by integer dot products
// with quantized activations (see compiler/kernels/ActivationRow.h), F8E4M3 with bf16 ones.
//
//   out[t][row] = sum over groups, in order, of scale[row] * s[t] * sum of (code - zero) * x
//
// The inner sum is exact for I8 and I4, so only the sum over pieces of a row rounds, one fused
// multiply-add each, in the same order whatever the tile.
#ifndef MOE_COMPILER_TARGETS_CPU_CODETILE_H
#define MOE_COMPILER_TARGETS_CPU_CODETILE_H

#include "compiler/targets/cpu/CpuKernel.h"

namespace moe::codegen {

// The rows of a tile, and the 64 float32 values of each that its sums go to.
struct TileOperands {
  llvm::SmallVector<Ptr> rows, outs;
  Ptr panel;
  Val steps; // groups of a row
  std::optional<FetchAhead> ahead;
};

// Emits the tile at the insertion point.
void emitCodeTile(CpuKernel &k, const WeightFormat &format, const TileOperands &operands, bool add);

} // namespace moe::codegen

#endif
