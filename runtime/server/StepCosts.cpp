// Piecewise linear through the averages.
#include "runtime/server/StepCosts.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace moe::server {

// 1, 2, ... 7, then 8-9, 10-11, 12-13, 14-15, 16-19, ...
size_t StepCosts::classOf(int64_t tokens) {
  assert(tokens >= 1);
  if (tokens < 8)
    return size_t(tokens - 1);
  const int octave = std::bit_width(uint64_t(tokens)) - 1;
  return 7 + size_t(octave - 3) * 4 + (uint64_t(tokens) >> (octave - 2) & 3);
}

void StepCosts::observe(int64_t tokens, double seconds) {
  const size_t index = classOf(tokens);
  if (index >= classes.size())
    classes.resize(index + 1);
  Class &of = classes[index];
  if (of.count > 0)
    seconds = std::min(seconds, 2 * of.seconds);
  of.count = std::min(of.count + 1, kMemory);
  of.tokens += (double(tokens) - of.tokens) / of.count;
  of.seconds += (seconds - of.seconds) / of.count;

  points.clear();
  for (const Class &known : classes)
    if (known.count > 0)
      points.push_back({known.tokens, points.empty()
                                          ? known.seconds
                                          : std::max(points.back().seconds, known.seconds)});
}

double StepCosts::of(int64_t tokens) const {
  if (points.empty())
    return 0;
  const auto at = double(tokens);
  const auto next = std::lower_bound(points.begin(), points.end(), at,
                                     [](const Point &p, double t) { return p.tokens < t; });
  if (next == points.end()) // beyond what was seen
    return points.back().seconds * at / points.back().tokens;
  if (next == points.begin())
    return next->seconds * at / next->tokens;
  const Point &low = next[-1];
  return low.seconds +
         (next->seconds - low.seconds) * (at - low.tokens) / (next->tokens - low.tokens);
}

int64_t StepCosts::within(double seconds, int64_t most) const {
  int64_t low = 0, high = std::max<int64_t>(most, 0);
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (of(middle) <= seconds)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

} // namespace moe::server
