// Random numbers for the tests of kernels.
#ifndef MOE_COMPILER_KERNELS_TESTFLOATS_H
#define MOE_COMPILER_KERNELS_TESTFLOATS_H

#include "dialects/moe/MoeReference.h"
#include <random>
#include <vector>

namespace moe::codegen {

// Normally distributed around 0, of that deviation.
inline std::vector<float> normalFloats(std::mt19937 &generator, size_t n, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(n);
  for (float &v : values)
    v = normal(generator);
  return values;
}

// The same, rounded to what bf16 holds exactly, as weights and the inputs of products are.
inline std::vector<float> normalBf16(std::mt19937 &generator, size_t n, float scale = 1) {
  std::vector<float> values = normalFloats(generator, n, scale);
  for (float &v : values)
    v = reference::roundToBfloat16(v);
  return values;
}

} // namespace moe::codegen

#endif
