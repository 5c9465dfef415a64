// The table of rotary angles, a share of the tokens for each worker.
#include "compiler/kernels/rope_table/RopeTable.h"
#include "compiler/targets/cpu/CpuKernel.h"

namespace moe::codegen {

// The angle is float32(position) * frequency, rounded to float32, as the reference forms it.
void RopeTable::emit(CpuKernel &k) const {
  Ptr positions = k.operand(Operand::Positions), table = k.operand(Operand::RopeTable);
  int64_t lanes = k.target.lanes, pairs = frequencies.size();
  auto [first, last] = k.share(k.tokens);
  k.loop(first, last, 1, [&](Val t) {
    Val position = k.convert((positions + t * 4).load(k.i32()), k.f32());
    Ptr to = table + t * (padded(2 * pairs) * 4);
    for (int64_t j = 0; j < pairs; j += lanes) {
      llvm::SmallVector<float> f(lanes, 0.0f);
      std::copy_n(frequencies.begin() + j, std::min(lanes, pairs - j), f.begin());
      auto [sine, cosine] = k.sincos(k.constants(f) * position);
      (to + j * 8).store(k.interleave(cosine, sine));
    }
  });
}

} // namespace moe::codegen
