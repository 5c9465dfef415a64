// GELU, for all targets.
#ifndef MOE_COMPILER_KERNELS_PROJECTION_MATH_H
#define MOE_COMPILER_KERNELS_PROJECTION_MATH_H

#include "compiler/targets/Builder.h"
#include <iterator>

namespace moe::codegen {

// x (1 + erf(x / sqrt(2))) / 2, the exact GELU, to within 2^-23 of the larger of |x| and what
// float32 sums of it lose. With P(t) the probability that a normal deviate is larger than t, it is
// x - x P(x) for x > 0, and x P(-x) for x <= 0, where 1 + erf would cancel.
//
// log2(P(t)) = -1 + t q(t): q is fitted to log2(erfc(t / sqrt(2)) / 2) on [0, 5.5], so that the
// largest error of P, where P is above 1/200, and of P / 200 beyond, is least, 4.3e-9
// (fit-gelu.py). Its leading coefficient is negative, so that further out P vanishes as it should.
// The power is the target's: `exp2(x)`, 0 far below.
template <class Exp2> Val gelu(Val x, Exp2 &&exp2) {
  constexpr double q[] = {-1.15110469,     -0.459216714,    -0.0524531938,  0.00696276408,
                          -1.09799166e-05, -0.000275555212, 7.56596637e-05, -1.09059138e-05,
                          8.60784439e-07,  -2.92333446e-08};
  Val t = max(x, constantLike(x, 0) - x);
  Val y = constantLike(x, q[std::size(q) - 1]);
  for (int i = int(std::size(q)) - 2; i >= 0; --i)
    y = fma(y, t, constantLike(x, q[i]));
  Val tail = x * exp2(fma(y, t, constantLike(x, -1)));
  return select(gt(x, constantLike(x, 0)), x - tail, tail);
}

} // namespace moe::codegen

#endif
