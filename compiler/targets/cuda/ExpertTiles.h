// The tiles of tokens of larger steps, which are grouped by expert: how many each group is cut
// into.
#ifndef MOE_COMPILER_TARGETS_CUDA_EXPERTTILES_H
#define MOE_COMPILER_TARGETS_CUDA_EXPERTTILES_H

#include "compiler/targets/cuda/CudaKernel.h"
#include "llvm/Support/MathExtras.h"

namespace moe::codegen {

struct ExpertTiles {
  CudaKernel &k;
  int64_t experts, tile; // the most tokens of a tile
  // In shared memory: tiles before each group, and the places where groups begin.
  Ptr counts = k.shared((experts + 1) * 4), begins = k.shared((experts + 1) * 4);

  Val at(Ptr list, Val e) { return k.load(k.offset(list, e * 4), k.i32()); }
  Val before(Val e) { return at(counts, e); } // tiles of the experts before e; of all: e = experts
  Val begin(Val e) { return at(begins, e); }

  // By one warp, from the router's `offsets`.
  void list(Ptr offsets) {
    int64_t each = llvm::divideCeil(experts, 32);
    llvm::SmallVector<Val> tiles;
    Val sum = k.i32(0);
    for (int64_t j = 0; j < each; ++j) {
      Val e = k.lane() * each + j;
      tiles.push_back(k.choose(
          lt(e, experts),
          [&] {
            Val begin = at(offsets, e), end = at(offsets + 4, e);
            k.store(k.offset(begins, e * 4), begin);
            k.store(k.offset(begins, e * 4) + 4, end);
            return llvm::SmallVector<Val>{ceilDiv(end - begin, tile)};
          },
          [&] { return llvm::SmallVector<Val>{k.i32(0)}; })[0]);
      sum = sum + tiles.back();
    }
    Val before = k.warpScan(sum) - sum;
    for (int64_t j = 0; j < each; ++j) {
      Val e = k.lane() * each + j;
      k.ifThen(lt(e, experts), [&] { k.store(k.offset(counts, e * 4), before); });
      before = before + tiles[j];
      k.ifThen(eq(e, experts - 1), [&] { k.store(k.offset(counts, e * 4) + 4, before); });
    }
  }

  // The expert whose group has a tile, counted through all groups.
  Val expertOf(Val tileOfAll) {
    Val e = k.i32(0);
    for (int64_t step = llvm::PowerOf2Ceil(experts) / 2; step; step /= 2) {
      Val next = min(e + step, k.i32(experts - 1));
      e = select(le(before(next), tileOfAll), next, e);
    }
    return e;
  }
};

} // namespace moe::codegen

#endif
