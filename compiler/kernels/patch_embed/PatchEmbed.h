// What enters a vision tower: the first kernel of its program.
#ifndef MOE_COMPILER_KERNELS_PATCH_EMBED_PATCHEMBED_H
#define MOE_COMPILER_KERNELS_PATCH_EMBED_PATCHEMBED_H

#include "compiler/kernels/ActivationRow.h"
#include <array>

namespace moe::codegen {

// How bytes become values: bf16(bf16(bf16(byte * rescale) - mean) / std), of each channel, with
// mean and std rounded to bf16, too.
struct PixelValues {
  float rescale;
  std::array<float, 3> mean, std;
};

// Of tiles of `grid` by `grid` patches, each of `patch` by `patch` pixels of three bytes:
// h = LayerNorm(x + table) with x the patches' products with the weight, in the order of rows,
// whose columns are (channel * patch + y) * patch + x, and the class row after those of each tile.
struct CpuPatchEmbed {
  int64_t grid, patch, hidden;
  PixelValues pixels;
  WeightFormat format;
  float eps;

  int64_t rows() const { return grid * grid + 1; } // of a tile
  int64_t columns() const { return 3 * patch * patch; }
  std::string name() const;
  Operands operands() const {
    return {Operand::Tiles, Operand::Weight,   Operand::ClassRow, Operand::RowTable,
            Operand::Norm,  Operand::NormBias, Operand::H,        Operand::Counters};
  }
  int64_t bytes(Operand operand, Step step) const;
  void emit(CpuKernel &k) const;
};

} // namespace moe::codegen

#endif
