// The embedding of tokens, and the cosines and sines of their positions.
#include "compiler/codegen/cuda/CudaKernel.h"
#include "compiler/codegen/cuda/CudaKernels.h"

using namespace mlir;

namespace moe::codegen {

void emitEmbed(CudaKernel &k, const CudaSpec &spec) {
  const auto &s = std::get<EmbedSpec>(spec.op);
  Ptr tokens = k.operand(0), table = k.operand(1), h = k.operand(2);
  k.blocksPerSm = 8;
  k.startNext();
  k.stride(k.block(), k.tokens(), k.blocks(), [&](Val t) {
    Val id = k.convert(k.load(k.offset(tokens, t * 4), k.i32()), k.i64());
    Ptr from = table + id * (s.hidden * 2);
    Ptr to = h + k.convert(t, k.i64()) * (padded(s.hidden) * 4);
    k.stride(k.thread(), k.i32(s.hidden), k.i32(k.threads), [&](Val c) {
      Val bits = k.load(k.offset(from, c * 2), k.getI16Type());
      Val wide = k.val(arith::ExtUIOp::create(k, k.i32(), bits.value));
      k.store(k.offset(to, c * 4), k.bitcast(wide << 16, k.f32()));
    });
  });
}

void emitRopeTable(CudaKernel &k, const CudaSpec &spec) {
  const auto &s = std::get<RopeTableSpec>(spec.op);
  Ptr positions = k.operand(0), table = k.operand(1);
  int64_t pairs = s.frequencies.size();
  Ptr frequencies = k.constantTable(s.frequencies);
  k.threads = 64;
  k.blocksPerSm = 8;
  k.startNext();
  k.stride(k.block(), k.tokens(), k.blocks(), [&](Val t) {
    Val position = k.convert(k.load(k.offset(positions, t * 4), k.i32()), k.f32());
    Ptr to = table + k.convert(t, k.i64()) * (padded(2 * pairs) * 4);
    k.stride(k.thread(), k.i32(pairs), k.i32(k.threads), [&](Val j) {
      auto [sine, cosine] = k.sincos(position * k.load(k.offset(frequencies, j * 4), k.f32()));
      k.store(k.offset(to, j * 8), k.vectorOf({cosine, sine}));
    });
  });
}

} // namespace moe::codegen
