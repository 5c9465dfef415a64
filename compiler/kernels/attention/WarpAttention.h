// A warp's attention: products by mma.sync, over tiles of 64 positions that a producer warp
// streams.
#ifndef MOE_COMPILER_KERNELS_ATTENTION_WARPATTENTION_H
#define MOE_COMPILER_KERNELS_ATTENTION_WARPATTENTION_H

#include "compiler/kernels/attention/CudaPages.h"
#include "compiler/kernels/attention/CudaTile.h"
#include <functional>

namespace moe::codegen {

// A thread has so many in blocks of eight consumer warps and a producer.
inline constexpr int64_t kNineWarpRegisters = 168;

// A warp's part: 16 rows of queries against positions, with a softmax in base 2. A lane works for
// rows lane / 4 and lane / 4 + 8.
class WarpAttention {
public:
  // `registers`: of a thread.
  WarpAttention(CudaKernel &k, const CacheSpec &cache, int64_t registers);

  // Gives the fragment of the queries of a step of 16 channels: from registers, or from memory
  // where a head is too large for them.
  using Queries = std::function<std::array<Val, 4>(int64_t step)>;
  Queries fromShared(Ptr tile, int64_t rows); // rows from `rows` on repeat the last
  Queries fromGlobal(Ptr row, Ptr rowPlus8);

  // Of the positions so far: each row's maximum, this lane's part of the sum of weights, and the
  // weighted values, not yet divided. In a form that loops can carry.
  using State = llvm::SmallVector<Val>;
  State start();
  static Val maximum(const State &s, int64_t half) { return s[half]; }
  Val total(const State &s, int64_t half) { return k.warpSum(s[2 + half], 4); }
  Val out(const State &s, int64_t eighth, int64_t i) { return s[4 + eighth * 4 + i]; }

  struct Tile {
    TileLayout layout;                   // of keys, and of values
    llvm::function_ref<void()> keysRead; // nothing reads the keys any more
    llvm::function_ref<Ptr()> values;
    llvm::function_ref<void()> valuesRead;
  };
  // `count` positions, a multiple of 16. visible(i, half): may the lane's row see position i + 2
  // (lane % 4)? Only asked where `masked` holds.
  State attend(const State &state, const Queries &queries, Ptr keys, int64_t count, Val masked,
               llvm::function_ref<Val(int64_t i, int64_t half)> visible, const Tile &tile);

  // The span in the ring from `stage` on. Of each tile that is `mine` the warp takes `count`
  // positions from `first` on. high[half]: the last position that the lane's row may see; all rows
  // see up to `sure`.
  State attendSpan(const State &state, const Queries &queries, Ring &ring, Val stage,
                   const Span &span, int64_t count, Val first,
                   llvm::function_ref<Val(Val tile)> mine, std::array<Val, 2> high, Val sure);

  const TileLayout layout;

private:
  Queries kept(const Queries &loaded);
  // What a lane adds to a tile's address to load the 16 rows by 16 channels of a step.
  llvm::SmallVector<Val> laneOffsets(Val row, Val chunk);
  Ptr fragment(Ptr tile, TileLayout layout, llvm::ArrayRef<Val> offsets, int64_t step);
  llvm::SmallVector<Val> scores(const Queries &queries, TileLayout layout, Ptr keys, int64_t count);
  void addValues(State &state, llvm::ArrayRef<Val> weights, TileLayout layout, Ptr values);

  CudaKernel &k;
  Half type;
  bool keepsQueries; // in registers
  int64_t piece;     // positions whose scores are in registers at once
  int64_t steps;     // of 16 channels
  CacheSpec cache;
  llvm::SmallVector<Val> keyOffsets, valueOffsets;
};

} // namespace moe::codegen

#endif
