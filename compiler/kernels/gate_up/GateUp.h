// The gate and up projections of a dense layer, or of a shared and of routed experts, with SwiGLU.
#ifndef MOE_COMPILER_KERNELS_GATE_UP_GATEUP_H
#define MOE_COMPILER_KERNELS_GATE_UP_GATEUP_H

#include "compiler/kernels/ActivationRow.h"
#include "compiler/targets/cuda/Strips.h"

namespace moe::codegen {

// `prepared`: x, experts and scores of CpuNorm are there; otherwise the kernel norms and routes for
// itself, and writes the experts that it chose. Without experts `shared` is the dense layer's.
struct CpuGateUp {
  int64_t hidden, width, experts, k;
  WeightFormat shared, routed;
  float eps;
  WeightFormat sharedDown, routedDown; // of the weights that the rows of `hidden` feed
  bool prepared = false;

  int64_t panels() const { return llvm::divideCeil(width, kPanel / 2); } // of one matrix
  int64_t weightBytes() const {                                          // read for a token
    return panels() * (panelBytes(shared, hidden) + (experts ? k * panelBytes(routed, hidden) : 0));
  }
  std::string name() const;
  Operands operands() const;
  int64_t bytes(Operand operand, Step step) const;
  void emit(CpuKernel &k) const;
};

// Of small steps: RMSNorm, router, top-1, shared and routed gate and up, SwiGLU. Shared strips come
// first, so that the router's latency hides behind them.
struct CudaSmallGateUp {
  int64_t hidden, width, experts, k;
  WeightFormat shared, routed;
  float eps;

  std::string name() const;
  Operands operands() const;
  int64_t bytes(Operand operand, Step step) const;
  int64_t blocks(Step step) const {
    return gateUpStrips(width) * (1 + std::min(experts, step.tokens));
  }
  std::string refusal() const { return expertsRefusal(shared, routed, hidden, experts, k); }
  void emit(CudaKernel &k) const;
};

// Of larger steps: tiles of the shared expert, then a tile for each group of tokens of an expert.
struct CudaTiledGateUp {
  int64_t hidden, width, experts, k;
  WeightFormat shared, routed;
  float eps;
  int64_t tile; // tokens of a tile

  std::string name() const;
  Operands operands() const;
  int64_t bytes(Operand operand, Step step) const;
  int64_t blocks(Step step) const {
    return rowTiles(gateUpStrips(width)) * (llvm::divideCeil(step.tokens, tile) +
                                            (experts ? groupTiles(experts, step.tokens, tile) : 0));
  }
  std::string refusal() const { return expertsRefusal(shared, routed, hidden, experts, k); }
  void emit(CudaKernel &k) const;
};

} // namespace moe::codegen

#endif
