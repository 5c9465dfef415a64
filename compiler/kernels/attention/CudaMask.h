// Which positions the rows of a lane may see.
#ifndef MOE_COMPILER_KERNELS_ATTENTION_CUDAMASK_H
#define MOE_COMPILER_KERNELS_ATTENTION_CUDAMASK_H

#include "compiler/kernels/attention/CudaPages.h"
#include "compiler/kernels/attention/Math.h"

namespace moe::codegen {

// Which positions of a tile the two rows of a lane may see.
struct TileMask {
  Val masked;              // not all rows see all of them
  std::array<Val, 2> high; // the last that a row may see, and the first for both, less the lane's
  std::optional<Val> low;  // position 0

  // high[half]: the last position that the lane's row may see; all rows see up to `sure`. The tile
  // has `count` positions from `position` on, of which a lane's first is its (lane % 4) * 2.
  static TileMask of(CudaKernel &k, const CacheSpec &cache, const Span &span, Val position,
                     int64_t count, std::array<Val, 2> high, Val sure);
  // May the row see position i + 2 (lane % 4)?
  Val visible(int64_t i, int64_t half) const;
};

// A lane's scores of 8 n positions: score 4 n + 2 half + i is of its row `half`, position
// 8 n + 2 (lane % 4) + i. Those that `visible` is not true for become kUnseen, where `masked`
// holds.
llvm::SmallVector<Val> maskScores(CudaKernel &k, llvm::ArrayRef<Val> scores, Val masked,
                                  llvm::function_ref<Val(int64_t i, int64_t half)> visible);

} // namespace moe::codegen

#endif
