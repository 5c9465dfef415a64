// Lays out the arena of a program.
#include "dialects/plan/Lifetimes.h"
#include "passes/Passes.h"
#include "llvm/Support/MathExtras.h"

namespace moe {
#define GEN_PASS_DEF_PLANMEMORY
#include "passes/Passes.h.inc"
} // namespace moe

using namespace mlir;
using namespace moe::plan;

namespace {
struct PlanMemory : moe::impl::PlanMemoryBase<PlanMemory> {
  void runOnOperation() override {
    SmallVector<Lifetime> order = lifetimes(getOperation());
    llvm::sort(order, [this](Lifetime a, Lifetime b) {
      return size(a) != size(b) ? size(a) > size(b) : a.alloc->isBeforeInBlock(b.alloc);
    });

    SmallVector<Lifetime> placed; // by rising offset
    int64_t arena = 0;
    for (Lifetime &life : order) {
      int64_t offset = findPlace(life, placed);
      life.alloc.setOffset(offset);
      arena = std::max(arena, offset + size(life));
      placed.insert(llvm::upper_bound(placed, offset,
                                      [](int64_t offset, Lifetime &other) {
                                        return offset < int64_t(*other.alloc.getOffset());
                                      }),
                    life);
    }
    for (auto alloc : llvm::make_early_inc_range(getOperation().getBody().getOps<AllocOp>()))
      if (alloc.use_empty())
        alloc.erase();
    getOperation().setArena(arena);
  }

private:
  int64_t size(const Lifetime &life) const {
    return llvm::alignTo(AllocOp(life.alloc).getBytes(), kPlaceAlignment);
  }

  // The start of the smallest gap that `life` fits into, among the buffers that are live with it;
  // behind them all where it fits into none.
  int64_t findPlace(const Lifetime &life, ArrayRef<Lifetime> placed) const {
    int64_t end = 0, best = 0, smallest = std::numeric_limits<int64_t>::max();
    for (Lifetime other : placed) {
      if (!other.meets(life))
        continue;
      int64_t offset = *other.alloc.getOffset(), gap = offset - end;
      if (gap >= size(life) && gap < smallest) {
        smallest = gap;
        best = end;
      }
      end = std::max(end, offset + size(other));
    }
    return smallest == std::numeric_limits<int64_t>::max() ? end : best;
  }
};
} // namespace
