// Tokens drawn from logits, on the device.
#ifndef MOE_COMPILER_KERNELS_SAMPLE_SAMPLE_H
#define MOE_COMPILER_KERNELS_SAMPLE_SAMPLE_H

#include "compiler/kernels/Contract.h"

namespace moe::codegen {

inline constexpr int64_t kRowSamplingBytes = 40; // RowSampling of runtime/device/cuda/KernelAbi.h
inline constexpr int64_t kSampleBlocks = 16;     // that share a row of logits, at most
inline constexpr int64_t kSampleWarps = 16;      // of a block that samples
inline constexpr int64_t kSharedRows = 64;       // the most rows of a step whose rows are shared
inline constexpr int64_t kSampleBuckets = 2048;  // of a digit of a logit
inline constexpr int64_t kSampleHistogramBytes = 3 * kSampleBuckets * 8; // of a shared row

// Chooses the ids of rows that are not greedy or have a mask. Partials are 16 bytes for each warp
// of the blocks of a row; counters are, for up to kSharedRows rows, an uint32 each, then 3
// histograms of uint64 each.
struct CudaSample {
  int64_t vocabulary;

  int64_t maskWords() const { return llvm::divideCeil(vocabulary, 32); }
  std::string name() const { return "sample_" + std::to_string(vocabulary); }
  Operands operands() const {
    return {Operand::Sampling, Operand::Masks,    Operand::Logits,
            Operand::Ids,      Operand::Partials, Operand::Counters};
  }
  int64_t bytes(Operand operand, Step step) const;
  int64_t blocks(Step step) const {
    return std::max(std::min(step.rows, kSharedRows) * kSampleBlocks, step.rows);
  }
  void emit(CudaKernel &k) const;
};

} // namespace moe::codegen

#endif
