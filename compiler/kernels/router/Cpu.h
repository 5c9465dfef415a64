// The router on a CPU: the experts of a token, and the tokens of an expert.
#ifndef MOE_COMPILER_KERNELS_ROUTER_CPU_H
#define MOE_COMPILER_KERNELS_ROUTER_CPU_H

#include "compiler/targets/cpu/CpuKernel.h"

namespace moe::codegen {

// Chooses the experts of tokens, one after the other; of a dense layer it does nothing.
struct CpuRouter {
  CpuKernel &k;
  int64_t hidden, experts, perToken;
  Ptr weight;         // float32 [experts, hidden]
  Ptr chosen, scores; // int32 and float32 [tokens, perToken]
  Ptr logits = k.scratch(std::max<int64_t>(experts, 1) * 4);

  // From a token's normed row, float32.
  void run(Val token, Ptr row) {
    if (!experts)
      return;
    computeLogits(row);
    choose(token);
  }

private:
  void computeLogits(Ptr row);
  void choose(Val token);
};

// The choices of the step, sorted by expert, which each worker does for itself. A choice is token *
// k + its rank among the token's, and the number of the row of `hidden` that it makes.
struct SortedChoices {
  CpuKernel &k;
  int64_t experts, perToken;
  Ptr starts = k.scratch((experts + 2) * 4); // int32: first place of each expert, and the end
  Ptr sorted = k.scratch(0, perToken * 4);   // int32: choice at each place
  Ptr tokens = k.scratch(0, perToken * 4);   // int32: its token

  // A counting sort, stable, so that the order of a sum does not depend on anything else.
  void sort(Ptr chosen);

  Val at(Ptr array, Val i) { return k.convert((array + i * 4).load(k.i32()), k.i64()); }
  Val begin(Val expert) { return at(starts, expert); }
  Val end(Val expert) { return at(starts, expert + 1); }

private:
  void set(Ptr array, Val i, Val x) { (array + i * 4).store(k.convert(x, k.i32())); }
};

} // namespace moe::codegen

#endif
