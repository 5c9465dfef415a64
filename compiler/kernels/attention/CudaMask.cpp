// Masks scores.
#include "compiler/kernels/attention/CudaMask.h"

using namespace mlir;

namespace moe::codegen {

TileMask TileMask::of(CudaKernel &k, const CacheSpec &cache, const Span &span, Val position,
                      int64_t count, std::array<Val, 2> high, Val sure) {
  Val last = span.high - 1, own = position + (k.lane() & 3) * 2;
  TileMask m;
  m.masked = lt(min(sure, last), position + (count - 1));
  m.high = {min(high[0], last) - own, min(high[1], last) - own};
  if (cache.chunk % kPageTokens) { // a chunk may begin inside a page
    m.masked = m.masked | lt(position, span.low);
    m.low = span.low - own;
  }
  return m;
}

Val TileMask::visible(int64_t i, int64_t half) const {
  Val seen = ge(high[half], i);
  return low ? seen & le(*low, i) : seen;
}

SmallVector<Val> maskScores(CudaKernel &k, ArrayRef<Val> scores, Val masked,
                            function_ref<Val(int64_t i, int64_t half)> visible) {
  return k.choose(
      masked,
      [&] {
        SmallVector<Val> all;
        for (auto [n, x] : llvm::enumerate(scores))
          all.push_back(select(visible(n / 4 * 8 + n % 2, n / 2 % 2), x, k.f32(kUnseen)));
        return all;
      },
      [&] { return SmallVector<Val>(scores); });
}

} // namespace moe::codegen
