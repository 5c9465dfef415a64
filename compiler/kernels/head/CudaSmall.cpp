// The last norm and the logits of small steps, of rows that want them, and the largest logit of
// each row. Each of the 128 threads that store keeps the largest of its logits, which all are of
// one row.
#include "compiler/kernels/head/BestLogit.h"
#include "compiler/kernels/head/Head.h"
#include "compiler/targets/cuda/SmallProduct.h"

namespace moe::codegen {

void CudaSmallHead::emit(CudaKernel &k) const {
  Ptr rows = k.operand(Operand::Rows), sampling = k.operand(Operand::Sampling),
      h = k.operand(Operand::H), norm = k.operand(Operand::Norm),
      weight = k.operand(Operand::Weight), logits = k.operand(Operand::Logits);
  Val count = k.rows();
  SmallProduct product(k, vocabulary, hidden, /*splits=*/1, format, weight, count);
  BestLogits best(k, k.operand(Operand::Ids), k.operand(Operand::Counters));
  Ptr keys = k.shared(128 * 8);
  auto keyOf = [&](Val i) { return k.offset(keys, i * 8); };

  auto parts = product.normed(
      [&](Val r) {
        Val token = k.load(k.offset(rows, r * 4), k.i32());
        return h + k.convert(token, k.i64()) * (padded(hidden) * 4);
      },
      norm, eps);
  parts.prepare = [&, computeScales = parts.prepare](Small &small) {
    // There are barriers in computeScales and loadX.
    k.ifThen(lt(k.thread(), 128), [&] { k.store(keyOf(k.thread()), k.i64(0)); });
    computeScales(small);
  };
  parts.store = [&](Val strip, Val, Val i, Val total) {
    Val row = product.rowOf(strip, i), column = Small::columnOf(i);
    k.ifThen(lt(row, vocabulary) & lt(column, count), [&] {
      Val key = unsignedMax(k.load(keyOf(i), k.i64()), logitKey(k, total, row));
      k.store(keyOf(i), key);
      k.ifThen(writesLogits(k, sampling, column), [&] {
        Val at = k.convert(column, k.i64()) * vocabulary + k.convert(row, k.i64());
        k.store(logits + at * 4, total);
      });
    });
  };
  parts.finish = [&](Small &small) {
    small.consumerBarrier();
    Val column = k.thread(); // its keys are those of 16 threads: see Small::columnOf
    k.ifThen(lt(column, min(count, k.i32(kSmallTokens))), [&] {
      Val key = k.i64(0), first = k.shiftRight(column, 1) * 4 + (column & 1);
      for (int64_t j = 0; j < 16; ++j)
        key = unsignedMax(key, k.load(keyOf(first + (j / 2 * 16 + j % 2 * 2)), k.i64()));
      best.offer(column, key);
    });
    best.finish(k.i32(0), Small::consumers, [&] { small.consumerBarrier(); });
  };
  product.run(parts);
}

} // namespace moe::codegen
