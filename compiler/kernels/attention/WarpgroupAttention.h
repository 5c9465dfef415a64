// A warpgroup's attention: products by wgmma, where the target has it.
#ifndef MOE_COMPILER_KERNELS_ATTENTION_WARPGROUPATTENTION_H
#define MOE_COMPILER_KERNELS_ATTENTION_WARPGROUPATTENTION_H

#include "compiler/kernels/attention/WarpAttention.h"
#include "compiler/targets/cuda/Wgmma.h"

namespace moe::codegen {

// A warpgroup's part, with wgmma: 64 rows of queries, of which each warp has 16 as in
// WarpAttention. Queries are in registers, and weights stay there. While the tensor cores multiply
// a tile's weights by its values, and the next tile's keys, a warp makes weights of the scores
// before them; and two warpgroups take turns, so that one's products run while the other makes
// weights.
class WarpgroupAttention {
public:
  // Needs head_dim / 4 registers of queries and head_dim / 2 sums beside the 64 positions' scores.
  static bool covers(const CudaTarget &target, const CacheSpec &cache) {
    return target.wgmma && cache.headDim <= 128;
  }
  // Where stages of the ring begin.
  static constexpr int64_t kAlignment = 1024;

  WarpgroupAttention(CudaKernel &k, const CacheSpec &cache);

  // By both warpgroups, warps 0 to 3 and 4 to 7, before and after everything else.
  void begin();
  void end();

  // As WarpAttention::attendSpan, of all 64 positions of each tile, from a ring of three stages or
  // more. A warpgroup that is not `mine` passes the tiles on.
  WarpAttention::State attendSpan(const WarpAttention::Queries &queries, Ring &ring, Val stage,
                                  const Span &span, Val mine, std::array<Val, 2> high, Val sure);

private:
  void takeTurn();
  void passTurn();
  SharedOperand keys(Ptr tile);
  SharedOperand values(Ptr tile);

  CudaKernel &k;
  const TileLayout layout;
  const CacheSpec cache;
  Half type;
};

} // namespace moe::codegen

#endif
