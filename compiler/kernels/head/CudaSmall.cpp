// The last norm and the logits of small steps, of rows that want them, and the largest logit of
// each row. Each of the 128 threads that store keeps the largest of its logits, which all are of
// one row.
#include "compiler/kernels/head/BestLogit.h"
#include "compiler/targets/cuda/CudaKernels.h"
#include "compiler/targets/cuda/SmallProduct.h"

namespace moe::codegen {

void emitSmallHead(CudaKernel &k, const CudaSpec &spec) {
  const auto &s = std::get<HeadSpec>(spec.op);
  Ptr rows = k.operand(0), sampling = k.operand(1), h = k.operand(2), norm = k.operand(3),
      weight = k.operand(4), logits = k.operand(5);
  Val count = k.rows();
  SmallProduct product(k, s.vocabulary, s.hidden, /*splits=*/1, s.format, weight, count);
  BestLogits best(k, k.operand(6), k.operand(7));
  Ptr keys = k.shared(128 * 8);
  auto keyOf = [&](Val i) { return k.offset(keys, i * 8); };

  auto parts = product.normed(
      [&](Val r) {
        Val token = k.load(k.offset(rows, r * 4), k.i32());
        return h + k.convert(token, k.i64()) * (padded(s.hidden) * 4);
      },
      norm, s.eps);
  parts.prepare = [&, computeScales = parts.prepare](Small &small) {
    // There are barriers in computeScales and loadX.
    k.ifThen(lt(k.thread(), 128), [&] { k.store(keyOf(k.thread()), k.i64(0)); });
    computeScales(small);
  };
  parts.store = [&](Val strip, Val, Val i, Val total) {
    Val row = product.rowOf(strip, i), column = Small::columnOf(i);
    k.ifThen(lt(row, s.vocabulary) & lt(column, count), [&] {
      Val key = unsignedMax(k.load(keyOf(i), k.i64()), logitKey(k, total, row));
      k.store(keyOf(i), key);
      k.ifThen(writesLogits(k, sampling, column), [&] {
        Val at = k.convert(column, k.i64()) * s.vocabulary + k.convert(row, k.i64());
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
