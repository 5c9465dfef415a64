// What the kernels of attention share: how keys and values lie in a page, how q, k and v are
// finished, and how warps attend to tiles of 64 positions that a producer warp streams to them.
#ifndef MOE_COMPILER_KERNELS_ATTENTION_CUDA_H
#define MOE_COMPILER_KERNELS_ATTENTION_CUDA_H

#include "compiler/kernels/attention/AttentionLayout.h"
#include "compiler/targets/cuda/CudaKernel.h"
#include "compiler/targets/cuda/CudaSpec.h"
#include "compiler/targets/cuda/Wgmma.h"
#include <functional>

namespace moe::codegen {

// A weight of 2 to the power of this is 0, and the difference of two of them is 0, not NaN.
inline constexpr double kUnseen = -1e30;

// Of a thread, in blocks of eight consumer warps and a producer.
inline constexpr int64_t kNineWarpRegisters = 168;

inline Half halfOf(Storage s) { return s == Storage::F16 ? Half::F16 : Half::BF16; }

// Where chunk `chunk` (of 8 channels) of a tile's row begins; firstPanel: it is in that.
Val offsetIn(TileLayout layout, Val row, Val chunk, bool firstPanel = false);

// The 32-bit value x, computed here: what follows from it is not computed before the loops around
// it, where it would hold registers all along.
Val here(CudaKernel &k, Val x);

// Finishes heads: a warp takes one, and a lane has the pairs of channels lane, lane + 32, ...
class Finisher {
public:
  Finisher(CudaKernel &k, const FinishSpec &spec, Ptr positions, Ptr sums, std::optional<Ptr> rope);

  // Calls `each` with the number of a pair and its two values in an i32, in the cache's type.
  using Each = llvm::function_ref<void(Val pair, Val packed)>;
  void query(Val token, Val head, Each each);
  void key(Val token, Val head, Each each);
  void value(Val token, Val head, Each each);

  // Stores a pair in row `row` of a tile of keys, of values, or of queries.
  void storePair(Ptr tile, TileLayout layout, Val row, Val pair, Val packed);

private:
  using Pairs = llvm::SmallVector<std::pair<Val, Val>>;
  Val pair(int64_t i) { return lane + i * 32; }
  bool always(int64_t i) const { return (i + 1) * 32 <= pairs; } // every lane has an i-th pair
  Pairs sum(Val token, Val head);
  void rotate(Pairs &x, Val token);
  Val normFactor(const Pairs &x);
  void give(const Pairs &x, std::optional<Val> factor, Each each);

  CudaKernel &k;
  const FinishSpec &s;
  Ptr positions, sums;
  std::optional<Ptr> rope;
  int64_t pairs = s.cache.headDim / 2;
  Val lane; // of the head at hand
};

// The positions [low, high) of a sequence in pages firstPage .. firstPage + pages - 1.
struct Span {
  Val low, high, firstPage, pages;
};

// The first position that a token at `position` may see.
Val firstVisible(const CacheSpec &cache, Val position);

// The producer warp's part: brings the span's keys and values of one head into the ring, a stage
// for the keys of a page and one for its values. Only the span's rows are read, since what is
// around them may never have been written; values around them become zero, as 0 times NaN is NaN.
// `heads` is where the head begins in page 0; clearKeys: keys around the span become zero, too, as
// tensor cores read them. Returns the count of stages after it.
Val streamSpan(CudaKernel &k, Ring &ring, const CacheSpec &cache, Val stage, Ptr heads,
               Ptr tableRow, const Span &span, bool clearKeys = false);

// Which positions of a tile the two rows of a lane may see.
struct Sight {
  Val masked;              // not all rows see all of them
  std::array<Val, 2> high; // the last that a row may see, and the first for both, less the lane's
  std::optional<Val> low;  // position 0

  // high[half]: the last position that the lane's row may see; all rows see up to `sure`. The tile
  // has `count` positions from `position` on, of which a lane's first is its (lane % 4) * 2.
  static Sight of(CudaKernel &k, const CacheSpec &cache, const Span &span, Val position,
                  int64_t count, std::array<Val, 2> high, Val sure);
  // May the row see position i + 2 (lane % 4)?
  Val visible(int64_t i, int64_t half) const;
};

// Of a lane and 8 n positions: score 4 n + 2 half + i is of its row `half`, position
// 8 n + 2 (lane % 4) + i. Those that `visible` is not true for become kUnseen, where `masked`
// holds.
llvm::SmallVector<Val> maskScores(CudaKernel &k, llvm::ArrayRef<Val> scores, Val masked,
                                  llvm::function_ref<Val(int64_t i, int64_t half)> visible);

// Takes scores into each row's maximum and total, the first four of `state` (WarpAttention::State),
// and makes them weights. Returns what each row's sums so far are to be multiplied by.
std::array<Val, 2> weigh(CudaKernel &k, llvm::MutableArrayRef<Val> state,
                         llvm::MutableArrayRef<Val> scores);

// Weights as the first operand of a product, four i32 for each 16 positions.
llvm::SmallVector<Val> packWeights(CudaKernel &k, Half type, llvm::ArrayRef<Val> weights);

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

// Four sums.
struct Quad {
  CudaKernel &k;
  std::array<Val, 4> x;

  explicit Quad(CudaKernel &k); // zero
  void add(Val values, Val weight);
  void storeBf16(Ptr to, Val factor) const;
};

// Puts together what the eight consumer warps found out about the same rows, in order.
class Joiner {
public:
  static constexpr int64_t warps = kJoinedWarps;
  Joiner(CudaKernel &k, int64_t rows, int64_t headDim);

  void put(WarpAttention &attention, const WarpAttention::State &state);
  // After a barrier: a row's maximum, its total, and four of its channels, not yet divided.
  struct Joined {
    Val maximum, total;
    Quad values;
  };
  Joined get(Val row, Val channel);
  // All of them, by the threads of the consumer warps.
  void each(llvm::function_ref<void(Val row, Val channel, const Joined &)> body);

private:
  CudaKernel &k;
  int64_t rows, headDim, stride;
  Ptr values, stats;
};

// Zeros the padding of a row of `out`, by the consumer warps.
void clearPadding(CudaKernel &k, Ptr row, int64_t channels);

} // namespace moe::codegen

#endif
