// LayerNorm of the rows of a vision tower.
#ifndef MOE_COMPILER_KERNELS_LAYER_NORM_LAYERNORM_H
#define MOE_COMPILER_KERNELS_LAYER_NORM_LAYERNORM_H

#include "compiler/kernels/ActivationRow.h"

namespace moe::codegen {

// x[r] = LayerNorm(h[r]) as rows that feed products with weights of `format`, of all rows of all
// tiles.
struct CpuLayerNorm {
  int64_t tileRows, hidden;
  WeightFormat format;
  float eps;

  std::string name() const;
  Operands operands() const { return {Operand::H, Operand::Norm, Operand::NormBias, Operand::X}; }
  int64_t bytes(Operand operand, Step step) const;
  void emit(CpuKernel &k) const;
};

} // namespace moe::codegen

#endif
