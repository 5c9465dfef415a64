// What leaves the vision tower: each two by two patches as one row.
#ifndef MOE_COMPILER_KERNELS_TOWER_OUTPUT_TOWEROUTPUT_H
#define MOE_COMPILER_KERNELS_TOWER_OUTPUT_TOWEROUTPUT_H

#include "compiler/kernels/ActivationRow.h"

namespace moe::codegen {

// x[t][i * grid / 2 + j] = LayerNorm of the patches in rows 2i, 2i + 1 and columns 2j, 2j + 1 of
// tile t side by side, in the order of rows, as rows that feed products with weights of `format`.
// The tile's last row, the class, is dropped.
struct CpuTowerOutput {
  int64_t grid, hidden;
  WeightFormat format;
  float eps;

  int64_t rows() const { return grid * grid / 4; } // of a tile
  std::string name() const;
  Operands operands() const { return {Operand::H, Operand::Norm, Operand::NormBias, Operand::X}; }
  int64_t bytes(Operand operand, Step step) const;
  void emit(CpuKernel &k) const;
};

} // namespace moe::codegen

#endif
