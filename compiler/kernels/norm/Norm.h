// RMSNorm of the residual stream as a kernel of its own, in programs of many tokens. In the others
// the kernels that need it do it.
#ifndef MOE_COMPILER_KERNELS_NORM_NORM_H
#define MOE_COMPILER_KERNELS_NORM_NORM_H

#include "compiler/kernels/ActivationRow.h"
#include "compiler/targets/cuda/Strips.h"

namespace moe::codegen {

// x[t] = RMSNorm(h[t]) as rows that feed products, and for a mixture of experts the router's
// choices: of k experts the numbers and their scores. Rows of x are for `shared`; where those for
// `routed` differ, T of them follow.
struct CpuNorm {
  int64_t hidden, experts, k;
  WeightFormat shared, routed;
  float eps;

  std::string name() const;
  Operands operands() const;
  int64_t bytes(Operand operand, Step step) const;
  void emit(CpuKernel &k) const;
};

// x[t] = RMSNorm(h[t]) in bf16; with `gather` x[r] = RMSNorm(h[rows[r]]).
struct CudaNorm {
  int64_t hidden;
  float eps;
  bool gather = false;

  std::string name() const;
  Operands operands() const;
  int64_t bytes(Operand operand, Step step) const;
  int64_t blocks(Step step) const { return gather ? step.rows : step.tokens; }
  void emit(CudaKernel &k) const;
};

} // namespace moe::codegen

#endif
