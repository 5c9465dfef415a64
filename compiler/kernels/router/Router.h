// The router of programs of many tokens on GPUs. On CPUs the norm has it, and in small steps
// gate_up.
#ifndef MOE_COMPILER_KERNELS_ROUTER_ROUTER_H
#define MOE_COMPILER_KERNELS_ROUTER_ROUTER_H

#include "compiler/targets/cuda/Strips.h"

namespace moe::codegen {

// Norms tokens to x, scores all experts in float32, picks the best one; the last block groups the
// tokens by expert.
struct CudaRouter {
  int64_t hidden, experts;
  float eps;

  std::string name() const;
  Operands operands() const {
    return {Operand::H,      Operand::Norm,  Operand::Router,  Operand::X,       Operand::Experts,
            Operand::Scores, Operand::Order, Operand::Offsets, Operand::Counters};
  }
  int64_t bytes(Operand operand, Step step) const;
  int64_t blocks(Step step) const { return step.tokens; }
  std::string refusal() const;
  void emit(CudaKernel &k) const;
};

} // namespace moe::codegen

#endif
