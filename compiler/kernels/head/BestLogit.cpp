// Keys of logits, and their merging by the last block.
#include "compiler/kernels/head/BestLogit.h"
#include "compiler/kernels/sample/Sample.h"
#include <cmath>

using namespace mlir;

namespace moe::codegen {

Val orderedBits(CudaKernel &k, Val logit) {
  Val bits = k.bitcast(logit + 0.0, k.i32()); // -0 + 0 is 0
  Val negative = lt(bits, 0);
  Val ordered = bits ^ select(negative, k.i32(-1), k.i32(INT32_MIN));
  return select(lt(logit, INFINITY), ordered, k.i32(-1)); // false for NaN
}
Val fromOrderedBits(CudaKernel &k, Val bits) {
  return k.bitcast(bits ^ select(lt(bits, 0), k.i32(INT32_MIN), k.i32(-1)), k.f32());
}

static Val widened(CudaKernel &k, Val x) {
  return k.val(arith::ExtUIOp::create(k, k.i64(), x.value));
}
Val logitKey(CudaKernel &k, Val logit, Val id) {
  return widened(k, orderedBits(k, logit)) << 32 | widened(k, id ^ k.i32(-1));
}
Val idOfKey(CudaKernel &k, Val key) {
  Val high = k.convert(k.val(arith::ShRUIOp::create(k, key.value, k.i64(32).value)), k.i32());
  Val id = k.convert(key, k.i32()) ^ k.i32(-1);
  id = select(eq(high, -1), k.i32(-2) - id, id);
  return select(eq(high, double(0x007fffff)), k.i32(-1), id);
}
Val unsignedMax(Val x, Val y) { return x.b->val(arith::MaxUIOp::create(*x.b, x.value, y.value)); }
Val shuffleXor64(CudaKernel &k, Val x, int64_t mask) {
  Val high = k.val(arith::ShRUIOp::create(k, x.value, k.i64(32).value));
  Val low = k.shuffleXor(k.convert(x, k.i32()), mask);
  high = k.shuffleXor(k.convert(high, k.i32()), mask);
  return widened(k, high) << 32 | widened(k, low);
}

void BestLogits::finish(Val first, int64_t threads, function_ref<void()> barrier) {
  Val me = k.thread() - first;
  barrier();
  k.ifThen(eq(me, 0), [&] { k.store(flag, k.atomicAdd(counters, k.i32(1))); });
  barrier();
  k.ifThen(eq(k.load(flag, k.i32()), k.blocks() - 1), [&] {
    k.stride(me, k.rows(), k.i32(threads), [&](Val row) {
      Val key = k.ptx("atom.relaxed.gpu.global.exch.b64 $0, [$1], 0;", k.i64(),
                      {k.addressOf(keyOf(row))}, "=l,l,~{memory}")[0];
      Val id = idOfKey(k, key);
      k.store(k.offset(ids, row * 4), id);
    });
    k.ifThen(eq(me, 0), [&] { k.store(counters, k.i32(0)); });
  });
}

Val writesLogits(CudaKernel &k, Ptr sampling, Val row) {
  return eq(k.load(k.offset(sampling, row * kRowSamplingBytes), k.i32()) & 1, 1);
}

} // namespace moe::codegen
