// This file is compiled without contraction of a * b + c, which is the compiler's choice otherwise.
#include "runtime/session/Pooling.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace moe {

std::optional<PoolingKind> poolingNamed(std::string_view name) {
  if (name == "mean")
    return PoolingKind::Mean;
  if (name == "last")
    return PoolingKind::Last;
  return std::nullopt;
}

void Pooling::add(std::span<const float> state) {
  assert(state.size() == sums.size());
  for (size_t c = 0; c < state.size(); ++c)
    sums[c] += state[c];
  std::copy(state.begin(), state.end(), last.begin());
  ++count;
}

// The mean has the direction of the sum, so nothing is divided by the count.
std::vector<float> Pooling::result(PoolingKind kind) const {
  const auto channel = [&](size_t c) { return kind == PoolingKind::Mean ? sums[c] : last[c]; };
  double squares = 0;
  for (size_t c = 0; c < sums.size(); ++c)
    squares += channel(c) * channel(c);
  const double length = std::sqrt(squares);
  std::vector<float> vector(sums.size());
  for (size_t c = 0; c < sums.size() && length != 0; ++c)
    vector[c] = float(channel(c) / length);
  return vector;
}

} // namespace moe
