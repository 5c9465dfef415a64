// Logits of larger steps, of rows that want them, and the largest logit of each row.
#include "compiler/kernels/head/BestLogit.h"
#include "compiler/targets/cuda/CudaKernels.h"
#include "compiler/targets/cuda/TiledProduct.h"

namespace moe::codegen {

void emitTiledHead(CudaKernel &k, const CudaSpec &spec) {
  const auto &s = std::get<HeadSpec>(spec.op);
  Ptr x = k.operand(0), sampling = k.operand(1), weight = k.operand(2), logits = k.operand(3);
  TiledShape shape{s.hidden, s.vocabulary, s.format};
  shape.ofRows = true;
  TiledProduct product(k, shape, spec.tile, x, {weight, {}, {}, {}});
  BestLogits best(k, k.operand(4), k.operand(5));

  // The largest of the strip's logits of each token: of the lane's two rows, then of its column's
  // eight lanes.
  auto offer = [&](const TiledProduct::Sums &sums) {
    const Piece &p = sums.piece;
    Val row = product.rowOf(sums);
    for (int64_t n = 0; n < 2; ++n) {
      Val key = k.i64(0);
      for (int64_t half = 0; half < 2; ++half) {
        Val logit = logitKey(k, sums.values[half * 2 + n], row + half * 8);
        key = unsignedMax(key, select(lt(row + half * 8, s.vocabulary), logit, k.i64(0)));
      }
      for (int64_t mask : {4, 8, 16})
        key = unsignedMax(key, shuffleXor64(k, key, mask));
      k.ifThen(lt(k.lane(), 4) & lt(sums.column + n, p.count),
               [&] { best.offer(p.first + sums.column + n, key); });
    }
  };
  product.run([&](const TiledProduct::Sums &sums) {
    offer(sums);
    const Piece &p = sums.piece;
    product.eachSum(
        sums, logits, s.vocabulary, [&](Ptr at, Val logit) { k.store(at, logit); },
        [&](Val place) { return writesLogits(k, sampling, p.first + min(place, p.count - 1)); });
  });
  best.finish(k.i32(0), k.threads, [&] { k.barrier(); });
}

} // namespace moe::codegen
