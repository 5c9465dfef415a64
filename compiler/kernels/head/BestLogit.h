// The largest logit of each row, kept while the head computes them: each block offers what it finds
// to one key for each row, and the last block to end turns the keys into ids.
//
// A key is 64 bits: the logit's bits, in an order that is that of the numbers, above the complement
// of its id, so that the largest key is the largest logit with the lowest id. It does not depend on
// the order in which keys are offered. A logit that is NaN or infinite is above all others.
#ifndef MOE_COMPILER_KERNELS_HEAD_BESTLOGIT_H
#define MOE_COMPILER_KERNELS_HEAD_BESTLOGIT_H

#include "compiler/targets/cuda/CudaKernel.h"

namespace moe::codegen {

// Of a float32: unsigned i32 in its order; -0 is 0, NaN and infinity are 2^32 - 1.
Val orderedBits(CudaKernel &k, Val logit);
// The float32 of the ordered bits of one that is not infinite or NaN.
Val fromOrderedBits(CudaKernel &k, Val bits);
// i64; `id` is an i32.
Val logitKey(CudaKernel &k, Val logit, Val id);
// The id of the largest key, or what is told in its place (RowSampling.h). A key of 0 is none.
Val idOfKey(CudaKernel &k, Val key);
Val unsignedMax(Val x, Val y);
Val shuffleXor64(CudaKernel &k, Val x, int64_t mask);

// The operands `ids` and `counters` of a head (README.md).
class BestLogits {
public:
  BestLogits(CudaKernel &k, Ptr ids, Ptr counters)
      : k(k), ids(ids), counters(counters), flag(k.shared(4, 4)) {}
  void offer(Val row, Val key) {
    k.ptx("red.relaxed.gpu.global.max.u64 [$0], $1;", {}, {k.addressOf(keyOf(row)), key},
          "l,l,~{memory}");
  }
  // By `threads` threads of the block from `first` on, when all of them have made their offers;
  // `barrier` is of these threads.
  void finish(Val first, int64_t threads, llvm::function_ref<void()> barrier);

private:
  Ptr keyOf(Val row) { return k.offset(counters, row * 8) + 8; }

  CudaKernel &k;
  Ptr ids, counters, flag;
};

// Whether the head writes the logits of a row: a flag of the input Sampling.
Val writesLogits(CudaKernel &k, Ptr sampling, Val row);

} // namespace moe::codegen

#endif
