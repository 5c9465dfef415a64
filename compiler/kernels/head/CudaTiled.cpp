// Logits of larger steps, of rows that want them, and the largest logit of each row.
#include "compiler/kernels/head/BestLogit.h"
#include "compiler/kernels/head/Head.h"
#include "compiler/targets/cuda/TiledProduct.h"

namespace moe::codegen {

void CudaTiledHead::emit(CudaKernel &k) const {
  Ptr sampling = k.operand(Operand::Sampling), logits = k.operand(Operand::Logits);
  TiledShape shape{hidden, vocabulary, format};
  shape.ofRows = true;
  TiledProduct product(k, shape, tile, k.operand(Operand::X),
                       {k.operand(Operand::Weight), {}, {}, {}});
  BestLogits best(k, k.operand(Operand::Ids), k.operand(Operand::Counters));

  // The largest of the strip's logits of each token: of the lane's two rows, then of its column's
  // eight lanes.
  auto offer = [&](const TiledProduct::Sums &sums) {
    const Piece &p = sums.piece;
    Val row = product.rowOf(sums);
    for (int64_t n = 0; n < 2; ++n) {
      Val key = k.i64(0);
      for (int64_t half = 0; half < 2; ++half) {
        Val logit = logitKey(k, sums.values[half * 2 + n], row + half * 8);
        key = unsignedMax(key, select(lt(row + half * 8, vocabulary), logit, k.i64(0)));
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
        sums, logits, vocabulary, [&](Ptr at, Val logit) { k.store(at, logit); },
        [&](Val place) { return writesLogits(k, sampling, p.first + min(place, p.count - 1)); });
  });
  best.finish(k.i32(0), k.threads, [&] { k.barrier(); });
}

} // namespace moe::codegen
