// One group quantized among others, for tests.
#ifndef MOE_COMPILER_PLAN_TESTGROUP_H
#define MOE_COMPILER_PLAN_TESTGROUP_H

#include "compiler/plan/Quantize.h"

#include <vector>

namespace moe::test {

// As quantizeGroups says; returns the scale. The group is lane `lane`, and the others are made of
// the same values in another order.
inline float quantizeGroup(const WeightFormat &format, ScaleChoice choice,
                           llvm::ArrayRef<float> values, llvm::ArrayRef<float> importance,
                           llvm::MutableArrayRef<uint8_t> codes, int64_t lane = 5) {
  const auto count = int64_t(values.size()), stride = kQuantizedGroups + 3;
  std::vector<float> all(size_t(count * stride));
  for (int64_t i = 0; i < count; ++i)
    for (int64_t g = 0; g < kQuantizedGroups; ++g)
      all[size_t(i * stride + g)] =
          values[size_t(g == lane ? i : (i * (g + 3) + 7 * g) % count)] * float(g == lane ? 1 : g);
  std::vector<uint8_t> found(size_t(count * kQuantizedGroups));
  float scales[kQuantizedGroups];
  quantizeGroups(format, choice, all.data(), stride, count, importance, scales, found.data());
  for (int64_t i = 0; i < count; ++i)
    codes[size_t(i)] = found[size_t(i * kQuantizedGroups + lane)];
  return scales[lane];
}

} // namespace moe::test

#endif
