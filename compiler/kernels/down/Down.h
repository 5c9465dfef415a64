// The down projections of a dense layer, or of a shared and of routed experts, added to the
// residual stream.
#ifndef MOE_COMPILER_KERNELS_DOWN_DOWN_H
#define MOE_COMPILER_KERNELS_DOWN_DOWN_H

#include "compiler/kernels/ActivationRow.h"
#include "compiler/targets/cuda/Strips.h"

namespace moe::codegen {

// Without experts `shared` is the dense layer's.
struct CpuDown {
  int64_t hidden, width, experts, k;
  WeightFormat shared, routed;

  int64_t weightBytes() const { // read for a token
    return padded(hidden) / kPanel *
           (panelBytes(shared, width) + (experts ? k * panelBytes(routed, width) : 0));
  }
  std::string name() const;
  Operands operands() const;
  int64_t bytes(Operand operand, Step step) const;
  void emit(CpuKernel &k) const;
};

// Of small steps: shared and routed down as one product over the joined K.
struct CudaSmallDown {
  int64_t hidden, width, experts, k;
  WeightFormat shared, routed;
  int64_t splits = 1; // shares of K, of each of the two matrices

  int64_t shares() const { return splits * (experts ? 2 : 1); }

  std::string name() const;
  Operands operands() const;
  int64_t bytes(Operand operand, Step step) const;
  int64_t blocks(Step) const { return stripsOf(hidden) * shares(); }
  std::string refusal() const { return expertsRefusal(shared, routed, width, experts, k); }
  void emit(CudaKernel &k) const;
};

// Of larger steps: K of shared and routed joined, per group of tokens of an expert.
struct CudaTiledDown {
  int64_t hidden, width, experts, k;
  WeightFormat shared, routed;
  int64_t tile; // tokens of a tile

  std::string name() const;
  Operands operands() const;
  int64_t blocks(Step step) const {
    return rowTiles(stripsOf(hidden)) *
           (experts ? groupTiles(experts, step.tokens, tile) : llvm::divideCeil(step.tokens, tile));
  }
  std::string refusal() const { return expertsRefusal(shared, routed, width, experts, k); }
  void emit(CudaKernel &k) const;
};

} // namespace moe::codegen

#endif
