// The last norm and the logits of the wanted tokens.
#ifndef MOE_COMPILER_KERNELS_HEAD_HEAD_H
#define MOE_COMPILER_KERNELS_HEAD_HEAD_H

#include "compiler/kernels/ActivationRow.h"
#include "compiler/targets/cuda/Strips.h"

namespace moe::codegen {

// logits[r] = RMSNorm(h[rows[r]]) * transpose(weight).
struct CpuHead {
  int64_t hidden, vocabulary;
  WeightFormat format;
  float eps;

  std::string name() const;
  int64_t weightBytes() const { // read for a token
    return padded(vocabulary) / kPanel * panelBytes(format, hidden);
  }
  Operands operands() const;
  int64_t bytes(Operand operand, Step step) const;
  void emit(CpuKernel &k) const;
};

// The same in small steps, but that the logits of greedy rows are not written: of each row the id
// of the largest is.
struct CudaSmallHead {
  int64_t hidden, vocabulary;
  WeightFormat format;
  float eps;

  std::string name() const;
  Operands operands() const {
    return {Operand::Rows,   Operand::Sampling, Operand::H,   Operand::Norm,
            Operand::Weight, Operand::Logits,   Operand::Ids, Operand::Counters};
  }
  int64_t bytes(Operand operand, Step step) const;
  int64_t blocks(Step) const { return stripsOf(vocabulary); }
  std::string refusal() const { return matrixRefusal(format, hidden); }
  void emit(CudaKernel &k) const;
};

// The same in larger steps, after a norm that gathers the rows.
struct CudaTiledHead {
  int64_t hidden, vocabulary;
  WeightFormat format;
  int64_t tile; // tokens of a tile

  std::string name() const;
  Operands operands() const {
    return {Operand::X,      Operand::Sampling, Operand::Weight,
            Operand::Logits, Operand::Ids,      Operand::Counters};
  }
  int64_t bytes(Operand operand, Step step) const;
  int64_t blocks(Step step) const { return tiledPieces(stripsOf(vocabulary), step.rows, tile); }
  std::string refusal() const { return matrixRefusal(format, hidden); }
  void emit(CudaKernel &k) const;
};

} // namespace moe::codegen

#endif
