// The linear layers of a vision tower, with what follows them.
#ifndef MOE_COMPILER_KERNELS_PROJECTION_PROJECTION_H
#define MOE_COMPILER_KERNELS_PROJECTION_PROJECTION_H

#include "compiler/kernels/tile_attention/TileHeads.h"

namespace moe::codegen {

// y = x * transpose(weight) + bias, then GELU, of all rows of all tiles. `rows`: of a tile.
struct CpuProjection {
  enum class To {
    Stream, // h += y
    Rows,   // hidden = y, as rows that feed products with weights of `next`
    Images, // images = y, float32 and not padded
  };
  int64_t rows, inputs, outputs;
  WeightFormat format;
  To to;
  bool bias = false, gelu = false;
  WeightFormat next{};

  std::string name() const;
  Operands operands() const;
  int64_t bytes(Operand operand, Step step) const;
  void emit(CpuKernel &k) const;
};

// The queries, keys and values of a tile's rows: x * transpose(weight) + bias, whose rows are those
// of q, then k, then v. q and k are rotated by the places of the patches in a square of `grid` by
// `grid`, as moe.patch_rope says; q also takes the softmax's 1/sqrt(d), in base 2.
struct CpuTowerQkv {
  int64_t hidden, grid;
  float theta;
  WeightFormat format;
  TileHeads heads;

  std::string name() const;
  Operands operands() const {
    return {Operand::X,    Operand::Weight, Operand::Bias,    Operand::Q,
            Operand::Keys, Operand::Values, Operand::Counters};
  }
  int64_t bytes(Operand operand, Step step) const;
  void emit(CpuKernel &k) const;
};

} // namespace moe::codegen

#endif
