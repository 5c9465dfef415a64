// Implements the router of small steps.
#include "compiler/kernels/router/CudaSmall.h"
#include "compiler/kernels/router/Math.h"

using namespace mlir;

namespace moe::codegen {

// From the float32 row, as the sum before the norm's scale.
void SmallRouter::computeLogits(Small &small) {
  k.stride(k.block(), k.i32(experts), k.blocks(), [&](Val expert) {
    Ptr w = operands.router + k.convert(expert, k.i64()) * (hidden * 4);
    k.stride(k.i32(0), k.tokens(), k.i32(1), [&](Val t) {
      Ptr row = operands.h + k.convert(t, k.i64()) * (padded(hidden) * 4);
      Val dot =
          k.stride(k.thread(), k.i32(hidden), k.i32(Small::consumers), {k.f32(0)},
                   [&](Val c, ArrayRef<Val> carried) {
                     auto at = [&](Ptr p) { return k.load(k.offset(p, c * 4), k.f32()); };
                     return SmallVector<Val>{fma(at(row) * at(operands.norm), at(w), carried[0])};
                   })[0];
      Val logit = small.blockSum(dot) * small.scaleOf(t);
      k.ifThen(eq(k.thread(), 0),
               [&] { k.store(k.offset(operands.logits, (expert * kSmallTokens + t) * 4), logit); });
    });
    k.ifThen(eq(k.thread(), 0), [&] { k.releaseAdd(computed, k.i32(1)); });
  });
}

// {expert, logit} of the largest logit of token t, the first of equal ones; in all lanes.
std::pair<Val, Val> SmallRouter::best(Val t) {
  auto logit = [&](Val e) {
    return k.load(k.offset(operands.logits, (e * kSmallTokens + t) * 4), k.f32());
  };
  Val mine = min(k.lane(), k.i32(experts - 1));
  auto out = k.stride(k.lane() + 32, k.i32(experts), k.i32(32), {mine, logit(mine)},
                      [&](Val e, ArrayRef<Val> b) {
                        Val v = logit(e), better = gt(v, b[1]);
                        return SmallVector<Val>{select(better, e, b[0]), select(better, v, b[1])};
                      });
  Val expert = out[0], value = out[1];
  for (int64_t mask = 16; mask; mask /= 2) {
    Val e = k.shuffleXor(expert, mask), v = k.shuffleXor(value, mask);
    Val better = isBefore({v, e}, {value, expert});
    expert = select(better, e, expert);
    value = select(better, v, value);
  }
  return {expert, value};
}

// By one warp.
Val SmallRouter::listDistinct(const Choices &choices) {
  return k.stride(k.i32(0), k.tokens(), k.i32(1), {k.i32(0)}, [&](Val t, ArrayRef<Val> carried) {
    Val n = carried[0], expert = choices.expertOf(t);
    Val seen = k.stride(k.i32(0), n, k.i32(1), {k.i32(0)}, [&](Val i, ArrayRef<Val> found) {
      return SmallVector<Val>{select(eq(choices.distinctExpert(i), expert), k.i32(1), found[0])};
    })[0];
    Val isNew = eq(seen, 0);
    k.syncWarp();
    k.ifThen(isNew & k.one(), [&] { k.store(k.offset(choices.distinct, n * 4), expert); });
    k.syncWarp();
    return SmallVector<Val>{select(isNew, n + 1, n)};
  })[0];
}

// The last to have read the logits, of the producer and the consumers of each block, prepares the
// counters for the next kernel.
void SmallRouter::doneReading() {
  Val before = k.atomicAdd(read, k.i32(1));
  k.ifThen(eq(before, k.blocks() * 2 - 1), [&] {
    k.store(computed, k.i32(0));
    k.store(read, k.i32(0));
  });
}

Val SmallRouter::chooseByProducer(const Choices &choices) {
  awaitLogits();
  k.stride(k.i32(0), k.tokens(), k.i32(1), [&](Val t) {
    Val expert = best(t).first;
    k.ifThen(k.one(), [&] { k.store(k.offset(choices.chosen, t * 4), expert); });
  });
  k.syncWarp();
  k.ifThen(k.one(), [&] { doneReading(); });
  return listDistinct(choices);
}

Val SmallRouter::chooseByConsumers(Small &small, const Choices &choices) {
  awaitLogits();
  k.ifThen(lt(k.warp(), k.tokens()), [&] {
    auto [expert, logit] = best(k.warp());
    k.ifThen(k.one(), [&, expert = expert, logit = logit] {
      k.store(k.offset(choices.chosen, k.warp() * 4), expert);
      k.store(k.offset(choices.scores, k.warp() * 4), k.sigmoid(logit));
      k.ifThen(eq(k.block(), 0), [&] { k.store(k.offset(operands.chosen, k.warp() * 4), expert); });
    });
  });
  small.consumerBarrier();
  k.ifThen(eq(k.thread(), 0), [&] { doneReading(); });
  Ptr counted = k.shared(4, 4);
  k.ifThen(eq(k.warp(), 0), [&] {
    Val n = listDistinct(choices);
    k.ifThen(k.one(), [&] { k.store(counted, n); });
  });
  small.consumerBarrier();
  return k.load(counted, k.i32());
}

} // namespace moe::codegen
