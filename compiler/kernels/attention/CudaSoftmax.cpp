// Makes weights of scores.
#include "compiler/kernels/attention/CudaSoftmax.h"
#include "compiler/kernels/attention/Math.h"

using namespace mlir;

namespace moe::codegen {

std::array<Val, 2> weigh(CudaKernel &k, MutableArrayRef<Val> state, MutableArrayRef<Val> scores) {
  std::array<Val, 2> shrink;
  for (int64_t half = 0; half < 2; ++half) {
    auto each = [&](auto body) {
      for (size_t n = half * 2; n < scores.size(); n += 4)
        for (size_t i = 0; i < 2; ++i)
          body(scores[n + i]);
    };
    Val highest = state[half];
    each([&](Val &x) { highest = max(highest, x); });
    highest = max(highest, k.shuffleXor(highest, 1));
    highest = max(highest, k.shuffleXor(highest, 2));
    // What was summed before shrinks by the growth of the maximum.
    shrink[half] = weightOf(k, state[half], highest);
    Val total = state[2 + half] * shrink[half];
    each([&](Val &x) {
      x = weightOf(k, x, highest);
      total = total + x;
    });
    state[half] = highest;
    state[2 + half] = k.here(total);
  }
  return shrink;
}

// Scores of 16 positions lie in a lane as the weights' fragment wants them.
SmallVector<Val> packWeights(CudaKernel &k, Half type, ArrayRef<Val> weights) {
  SmallVector<Val> packed;
  for (size_t n = 0; n < weights.size(); n += 2)
    packed.push_back(k.pack(type, weights[n], weights[n + 1]));
  return packed;
}

} // namespace moe::codegen
