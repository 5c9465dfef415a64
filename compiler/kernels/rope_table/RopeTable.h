// The cosines and sines of a step's positions, once for all layers.
#ifndef MOE_COMPILER_KERNELS_ROPE_TABLE_ROPETABLE_H
#define MOE_COMPILER_KERNELS_ROPE_TABLE_ROPETABLE_H

#include "compiler/kernels/Contract.h"

namespace moe::codegen {

// rope_table[t][2 j] and [2 j + 1] are the cosine and the sine of float32(positions[t]) *
// frequencies[j], an angle that is rounded to float32, as the reference forms it.
struct RopeTable {
  llvm::SmallVector<float> frequencies;

  std::string name() const;
  Operands operands() const { return {Operand::Positions, Operand::RopeTable}; }
  int64_t bytes(Operand operand, Step step) const;
  int64_t blocks(Step step) const { return step.tokens; }
  void emit(CpuKernel &k) const;
  void emit(CudaKernel &k) const;
};

} // namespace moe::codegen

#endif
