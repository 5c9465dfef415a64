// Embedding rows, and the rotary embedding's table: once a step, before the first layer.
#include "compiler/codegen/Kernels.h"
#include "compiler/codegen/cpu/CpuKernel.h"

namespace moe::codegen {

void emitEmbed(CpuKernel &k, const EmbedSpec &s) {
  Ptr tokens = k.operand(0), table = k.operand(1), h = k.operand(2);
  auto [first, last] = k.share(k.tokens);
  k.loop(first, last, 1, [&](Val t) {
    Val token = k.convert((tokens + t * 4).load(k.i32()), k.i64());
    Ptr from = table + token * (s.hidden * bytesOf(s.storage));
    Ptr to = h + t * (padded(s.hidden) * 4);
    k.channels(s.hidden, [&](Val c, int64_t lanes) {
      Val x = (from + c * bytesOf(s.storage)).load(k.vec(lanes, k.typeOf(s.storage)));
      (to + c * 4).store(k.convert(x, k.f32()));
    });
    for (int64_t c = s.hidden; c < padded(s.hidden); ++c)
      (to + c * 4).store(k.f32(0));
  });
}

// The angle is float32(position) * frequency, rounded to float32, as the reference forms it.
void emitRopeTable(CpuKernel &k, const RopeTableSpec &s) {
  Ptr positions = k.operand(0), table = k.operand(1);
  int64_t lanes = k.target.lanes, pairs = s.frequencies.size();
  auto [first, last] = k.share(k.tokens);
  k.loop(first, last, 1, [&](Val t) {
    Val position = k.convert((positions + t * 4).load(k.i32()), k.f32());
    Ptr to = table + t * (padded(2 * pairs) * 4);
    for (int64_t j = 0; j < pairs; j += lanes) {
      llvm::SmallVector<float> f(lanes, 0.0f);
      std::copy_n(s.frequencies.begin() + j, std::min(lanes, pairs - j), f.begin());
      auto [sine, cosine] = k.sincos(k.constants(f) * position);
      (to + j * 8).store(k.interleave(cosine, sine));
    }
  });
}

} // namespace moe::codegen
