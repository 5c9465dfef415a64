// Attention over the pages of the cache.
#ifndef MOE_COMPILER_KERNELS_ATTENTION_ATTENTION_H
#define MOE_COMPILER_KERNELS_ATTENTION_ATTENTION_H

#include "compiler/kernels/qkv/Qkv.h"

namespace moe::codegen {

// Of queries that are finished, [T, heads].
struct CpuAttention {
  int64_t heads;
  WeightFormat output; // of the weight that the rows of the result feed
  CacheSpec cache;

  int64_t channels() const { return heads * cache.headDim; }
  // Whether rows of the result are float32: where an activation row's unit spans what one worker
  // computes, the linear quantizes them.
  bool outputsFloats() const {
    return channels() / cache.heads % ActivationRow{output, channels()}.unit() != 0;
  }
  int64_t outputBytes() const { // of a row
    return outputsFloats() ? padded(channels()) * 4 : ActivationRow{output, channels()}.bytes();
  }

  std::string name() const;
  Operands operands() const {
    return {Operand::Positions, Operand::Sequences,    Operand::BlockTable, Operand::Q,
            Operand::Cache,     Operand::AttentionOut, Operand::Counters};
  }
  int64_t bytes(Operand operand, Step step) const;
  void emit(CpuKernel &k) const;
};

// Of small steps: finishes q, k, v (sum of splits, rotation, QK norm or temperature), appends k and
// v, attends over a share of the positions; the last block to arrive merges the shares in order.
struct CudaFusedAttention {
  FinishSpec finish;
  int64_t splits = 1; // shares of the positions that are attended to

  std::string name() const;
  Operands operands() const;
  int64_t bytes(Operand operand, Step step) const;
  int64_t blocks(Step step) const;
  std::string refusal() const { return finishRefusal(finish); }
  void emit(CudaKernel &k) const;
};

// Of larger steps, whose keys and values are all in the cache: of runs of tokens, or of single
// ones.
struct CudaTiledAttention {
  FinishSpec finish;

  std::string name() const;
  Operands operands() const {
    return {Operand::Positions, Operand::Sequences, Operand::BlockTable,
            Operand::Q,         Operand::Cache,     Operand::AttentionOut};
  }
  int64_t bytes(Operand operand, Step step) const;
  int64_t blocks(Step step) const;
  std::string refusal() const { return finishRefusal(finish); }
  void emit(CudaKernel &k) const;
};

} // namespace moe::codegen

#endif
