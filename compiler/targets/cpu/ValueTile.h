// One tile of attention's second product: the softmax's weights times a panel of int8 values.
//
//   out[t][channel] += scale[t] * sum over a page's positions of code[t] * (value - 128)
//
// The weights of a page, times the scales of its values, span many powers of two, and what eight
// bits would drop may add up to much of a page. So their codes have sixteen. The sum is exact, and
// only its scaling and adding round, in the same order whatever the tile.
#ifndef MOE_COMPILER_TARGETS_CPU_VALUETILE_H
#define MOE_COMPILER_TARGETS_CPU_VALUETILE_H

#include "compiler/kernels/attention/CacheSpec.h"
#include "compiler/targets/cpu/CodeTile.h"

namespace moe::codegen {

// A row's weights of a page: weight = scale * code, with 0 <= code <= `largest`. For a dot product
// of bytes a code is two digits, 256 * upper + lower, both signed: 64 upper ones, then 64 lower
// ones. For one of words it is an int16, and of each four neighbours the second and third change
// places.
struct PageWeights {
  static constexpr int64_t largest = 127 * 256 + 127;
  static constexpr int64_t scaleAt = 0, sumAt = 4, codesAt = 64; // `sum`: of the codes, an int32
  static constexpr int64_t bytes = codesAt + 2 * kPageTokens;
};

// Writes `weights`, 64 float32 values of zero or more in vectors, as the codes of `to`.
void quantizeWeights(CpuKernel &k, llvm::ArrayRef<Val> weights, Ptr to);

// Emits the tile at the insertion point. Its rows are PageWeights.
void emitValueTile(CpuKernel &k, const TileOperands &operands);

} // namespace moe::codegen

#endif
