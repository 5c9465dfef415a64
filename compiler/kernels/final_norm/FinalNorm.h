// The hidden states of the wanted tokens, which plans made with --embeddings give.
#ifndef MOE_COMPILER_KERNELS_FINAL_NORM_FINALNORM_H
#define MOE_COMPILER_KERNELS_FINAL_NORM_FINALNORM_H

#include "compiler/kernels/Contract.h"

namespace moe::codegen {

// hidden_states[r] = RMSNorm(h[rows[r]]), which the head multiplies with its weight. The rows are
// not padded: they are an output.
struct FinalNorm {
  int64_t hidden;
  float eps;

  std::string name() const;
  Operands operands() const {
    return {Operand::Rows, Operand::H, Operand::Norm, Operand::HiddenStates};
  }
  int64_t blocks(Step step) const { return step.rows; }
  void emit(CpuKernel &k) const;
  void emit(CudaKernel &k) const;
};

} // namespace moe::codegen

#endif
