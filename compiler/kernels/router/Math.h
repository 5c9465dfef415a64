// The order in which experts are chosen, for all targets.
#ifndef MOE_COMPILER_KERNELS_ROUTER_MATH_H
#define MOE_COMPILER_KERNELS_ROUTER_MATH_H

#include "compiler/targets/Builder.h"

namespace moe::codegen {

struct ExpertLogit {
  Val logit, expert;
};

// Whether `a` is chosen before `b`: for a larger logit or, of equal ones, as the lower expert.
inline Val isBefore(const ExpertLogit &a, const ExpertLogit &b) {
  return gt(a.logit, b.logit) | (eq(a.logit, b.logit) & lt(a.expert, b.expert));
}

} // namespace moe::codegen

#endif
