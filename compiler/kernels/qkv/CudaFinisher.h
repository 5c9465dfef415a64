// How raw sums become q, k and v: rotated, normed, scaled, and in the type of the cache.
#ifndef MOE_COMPILER_KERNELS_QKV_CUDAFINISHER_H
#define MOE_COMPILER_KERNELS_QKV_CUDAFINISHER_H

#include "compiler/kernels/attention/CudaTile.h"
#include "compiler/kernels/qkv/Qkv.h"

namespace moe::codegen {

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

} // namespace moe::codegen

#endif
