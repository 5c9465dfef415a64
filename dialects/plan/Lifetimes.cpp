// Lifetimes, by one walk over the straight-line body of a program.
#include "dialects/plan/Lifetimes.h"
#include "llvm/ADT/DenseMap.h"

using namespace moe::plan;

llvm::SmallVector<Lifetime> moe::plan::lifetimes(ProgramOp program) {
  llvm::DenseMap<mlir::Operation *, int64_t> place;
  for (auto [index, op] : llvm::enumerate(program.getBody().front()))
    place[&op] = index;

  llvm::SmallVector<Lifetime> result;
  for (auto alloc : program.getBody().getOps<AllocOp>()) {
    if (alloc.use_empty())
      continue;
    Lifetime life{alloc, std::numeric_limits<int64_t>::max(), 0};
    for (mlir::Operation *user : alloc->getUsers()) {
      life.first = std::min(life.first, place.lookup(user));
      life.last = std::max(life.last, place.lookup(user));
    }
    result.push_back(life);
  }
  return result;
}
