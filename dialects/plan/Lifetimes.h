// When each plan.alloc of a program is live.
#ifndef MOE_DIALECTS_PLAN_LIFETIMES_H
#define MOE_DIALECTS_PLAN_LIFETIMES_H

#include "dialects/plan/PlanDialect.h"

namespace moe::plan {

// An alloc that is used, and the places of its first and last use among the program's ops. Both
// ends are included: the operands of one call are live together.
struct Lifetime {
  AllocOp alloc;
  int64_t first, last;

  bool meets(const Lifetime &other) const { return first <= other.last && other.first <= last; }
};

// In the order of the allocs. An alloc without uses is never live, and is left out.
llvm::SmallVector<Lifetime> lifetimes(ProgramOp program);

} // namespace moe::plan

#endif
