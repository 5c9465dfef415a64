// A product that is added to the residual stream, and on GPUs one that is not.
#ifndef MOE_COMPILER_KERNELS_LINEAR_LINEAR_H
#define MOE_COMPILER_KERNELS_LINEAR_LINEAR_H

#include "compiler/kernels/ActivationRow.h"
#include "compiler/targets/cuda/Strips.h"

namespace moe::codegen {

// h += x * transpose(weight). Rows of x are as CpuAttention makes them: with `fromFloats` float32,
// of which the kernel makes rows that feed the product.
struct CpuLinearResidual {
  int64_t inputs, outputs;
  WeightFormat format;
  bool fromFloats = false;

  std::string name() const;
  int64_t weightBytes() const { // read for a token
    return padded(outputs) / kPanel * panelBytes(format, inputs);
  }
  Operands operands() const;
  int64_t bytes(Operand operand, Step step) const;
  void emit(CpuKernel &k) const;
};

// The same in small steps: blocks share K, the last one sums in order.
struct CudaSmallLinearResidual {
  int64_t inputs, outputs;
  WeightFormat format;
  int64_t splits = 1; // shares of K

  std::string name() const;
  Operands operands() const {
    return {Operand::X, Operand::Weight, Operand::H, Operand::Partials, Operand::Counters};
  }
  int64_t bytes(Operand operand, Step step) const;
  int64_t blocks(Step) const { return stripsOf(outputs) * splits; }
  std::string refusal() const { return matrixRefusal(format, inputs); }
  void emit(CudaKernel &k) const;
};

// The same in larger steps.
struct CudaTiledLinearResidual {
  int64_t inputs, outputs;
  WeightFormat format;
  int64_t tile; // tokens of a tile

  std::string name() const;
  Operands operands() const { return {Operand::X, Operand::Weight, Operand::H}; }
  int64_t blocks(Step step) const { return tiledPieces(stripsOf(outputs), step.tokens, tile); }
  std::string refusal() const { return matrixRefusal(format, inputs); }
  void emit(CudaKernel &k) const;
};

// sums = x * transpose(weight), float32: q, k and v of larger steps.
struct CudaTiledLinear {
  int64_t inputs, outputs;
  WeightFormat format;
  int64_t tile; // tokens of a tile

  std::string name() const;
  Operands operands() const { return {Operand::X, Operand::Weight, Operand::Sums}; }
  int64_t bytes(Operand operand, Step step) const;
  int64_t blocks(Step step) const { return tiledPieces(stripsOf(outputs), step.tokens, tile); }
  std::string refusal() const { return matrixRefusal(format, inputs); }
  void emit(CudaKernel &k) const;
};

} // namespace moe::codegen

#endif
