// What an online softmax in base 2 is made of, for all targets.
#ifndef MOE_COMPILER_KERNELS_ATTENTION_MATH_H
#define MOE_COMPILER_KERNELS_ATTENTION_MATH_H

#include "compiler/kernels/attention/CacheSpec.h"
#include "compiler/targets/Builder.h"

namespace moe::codegen {

// The score of a position that a row may not see. 2 to its power is 0, and the difference of two of
// them is 0, not NaN.
inline constexpr double kUnseen = -1e30;

// The first position that a token at `position` may see.
inline Val firstVisible(const CacheSpec &cache, Val position) {
  return cache.chunk ? position - position % cache.chunk : constantLike(position, 0);
}

// The weight of a score once `maximum` is the largest so far; and what is summed already shrinks by
// the growth of the maximum, that is by the weight of the one before. The power is the target's.
template <class Kernel> Val weightOf(Kernel &k, Val score, Val maximum) {
  return k.exp2(score - maximum);
}

} // namespace moe::codegen

#endif
