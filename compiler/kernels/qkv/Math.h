// What queries are multiplied by, for all targets.
#ifndef MOE_COMPILER_KERNELS_QKV_MATH_H
#define MOE_COMPILER_KERNELS_QKV_MATH_H

#include "compiler/targets/Builder.h"
#include <cmath>
#include <numbers>
#include <optional>

namespace moe::codegen {

// The factor of a query, whose QK norm gives it `norm`, or 1: with that of the softmax, which is in
// base 2, so that exp(x / sqrt(headDim)) = 2^(x log2(e) / sqrt(headDim)), and of the temperature
// {scale, floor}, 1 + scale log(1 + floor((position + 1) / floor)). The logarithm is the target's:
// `log(x)`, natural, of a float32. `position()` gives the query's as a float32; it is called where
// there is a temperature.
template <class Position, class Log>
Val queryFactor(Val norm, int64_t headDim,
                const std::optional<std::pair<float, float>> &temperature, Position &&position,
                Log &&log) {
  Val factor = norm * (std::numbers::log2e / std::sqrt(double(headDim)));
  if (!temperature)
    return factor;
  auto [scale, floor] = *temperature;
  Val steps = norm.b->floor((position() + 1) / double(floor));
  return factor * (log(steps + 1) * double(scale) + 1);
}

} // namespace moe::codegen

#endif
