// The table of rotary angles, a block for each token.
#include "compiler/kernels/rope_table/RopeTable.h"
#include "compiler/targets/cuda/CudaKernel.h"

using namespace mlir;

namespace moe::codegen {

void RopeTable::emit(CudaKernel &k) const {
  Ptr positions = k.operand(Operand::Positions), table = k.operand(Operand::RopeTable);
  int64_t pairs = frequencies.size();
  Ptr constants = k.constantTable(frequencies);
  k.threads = 64;
  k.blocksPerSm = 8;
  k.startNext();
  k.stride(k.block(), k.tokens(), k.blocks(), [&](Val t) {
    Val position = k.convert(k.load(k.offset(positions, t * 4), k.i32()), k.f32());
    Ptr to = table + k.convert(t, k.i64()) * (padded(2 * pairs) * 4);
    k.stride(k.thread(), k.i32(pairs), k.i32(k.threads), [&](Val j) {
      auto [sine, cosine] = k.sincos(position * k.load(k.offset(constants, j * 4), k.f32()));
      k.store(k.offset(to, j * 8), k.vectorOf({cosine, sine}));
    });
  });
}

} // namespace moe::codegen
