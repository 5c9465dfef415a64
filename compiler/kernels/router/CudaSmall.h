// The router of small steps, which is a part of their gate_up: the first blocks compute the logits,
// and each block then chooses for itself.
#ifndef MOE_COMPILER_KERNELS_ROUTER_CUDASMALL_H
#define MOE_COMPILER_KERNELS_ROUTER_CUDASMALL_H

#include "compiler/targets/cuda/Small.h"

namespace moe::codegen {

class SmallRouter {
public:
  // h: float32 [tokens, padded(hidden)], norm: float32 [hidden], router: float32 [experts, hidden],
  // chosen: int32 [tokens], logits: float32 [experts, kSmallTokens], counters: two uint32, how many
  // experts' logits are there and how many have read them, zero before and after.
  struct Operands {
    Ptr h, norm, router, chosen, logits, counters;
  };
  SmallRouter(CudaKernel &k, int64_t hidden, int64_t experts, const Operands &operands)
      : k(k), hidden(hidden), experts(experts), operands(operands) {}

  // By the consumers, when small.computeScales has the tokens' scales: the logits of experts
  // block, block + blocks...
  void computeLogits(Small &small);

  // What the step's tokens chose, in shared memory: the producer and the consumers have their own.
  struct Choices {
    CudaKernel &k;
    Ptr chosen = k.shared(kSmallTokens * 4), distinct = k.shared(kSmallTokens * 4),
        scores = k.shared(kSmallTokens * 4);

    Val expertOf(Val token) const { return k.load(k.offset(chosen, token * 4), k.i32()); }
    // Each expert that was chosen once, in the order of their first tokens.
    Val distinctExpert(Val i) const { return k.load(k.offset(distinct, i * 4), k.i32()); }
    Val scoreOf(Val token) const { return k.load(k.offset(scores, token * 4), k.f32()); }
  };
  // Wait for the logits and fill `choices`; return how many different experts there are. By the
  // producer warp, without scores, and by all consumers, of which block 0's store `chosen`.
  Val chooseByProducer(const Choices &choices);
  Val chooseByConsumers(Small &small, const Choices &choices);

private:
  void awaitLogits() { k.awaitCounter(computed, k.i32(experts)); }
  std::pair<Val, Val> best(Val t);
  Val listDistinct(const Choices &choices);
  void doneReading();

  CudaKernel &k;
  const int64_t hidden, experts;
  const Operands operands;
  const Ptr computed = operands.counters, read = computed + 4;
};

} // namespace moe::codegen

#endif
