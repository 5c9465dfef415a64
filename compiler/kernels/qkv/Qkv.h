// The q, k and v projections, and what becomes of their raw sums.
#ifndef MOE_COMPILER_KERNELS_QKV_QKV_H
#define MOE_COMPILER_KERNELS_QKV_QKV_H

#include "compiler/kernels/attention/CacheSpec.h"
#include "compiler/targets/cuda/Strips.h"

namespace moe::codegen {

// What turns raw sums into q, k and v: rotation, QK norm, temperature; q also takes the softmax's
// 1/sqrt(d), in base 2. k and v go to the cache.
struct FinishSpec {
  int64_t heads;
  CacheSpec cache;
  bool rope;
  std::optional<float> qkNorm;                        // its epsilon
  std::optional<std::pair<float, float>> temperature; // scale, floor
  int64_t sumSplits = 1; // of the operand Sums: those of the kernel that made it

  int64_t channels() const { return heads * cache.headDim; }                 // of all queries
  int64_t rows() const { return (heads + 2 * cache.heads) * cache.headDim; } // of the weight
};

// As names of CUDA kernels have it, and why these do not cover it, or empty.
std::string nameOf(const FinishSpec &finish);
std::string finishRefusal(const FinishSpec &finish);

// RMSNorm, the projections, and the finishing in their epilogue. `prepared`: x is there in place of
// h and norm.
struct CpuQkv {
  int64_t hidden;
  WeightFormat format; // q, k and v are stored as the cache is
  float eps;
  FinishSpec finish;
  bool prepared = false;
  // Of the weight that attention's result feeds, where this kernel goes on with attention.
  std::optional<WeightFormat> attention = std::nullopt;

  // Where Counters has what, in bytes, after who claimed what of the weight. Those that all workers
  // use at once are in lines of their own.
  static constexpr int64_t left = 64, claimedPieces = 128,
                           parts = 192; // of each key-value head that are made; then
  int64_t segments() const { return parts + finish.cache.heads * 4; } // of [token, head], made

  int64_t weightBytes() const { // read for a token
    return finish.rows() / finish.cache.headDim * padded(finish.cache.headDim) / kPanel *
           panelBytes(format, hidden);
  }
  bool claims() const { return weightBytes() >= kClaimedBytes; }
  std::string name() const;
  Operands operands() const;
  int64_t bytes(Operand operand, Step step) const;
  void emit(CpuKernel &k) const;
};

// RMSNorm and the projections of small steps: sums, raw, of each share of K.
struct CudaSmallQkv {
  int64_t hidden, rows;
  WeightFormat format;
  float eps;
  int64_t splits = 1;

  std::string name() const;
  Operands operands() const { return {Operand::H, Operand::Norm, Operand::Weight, Operand::Sums}; }
  int64_t bytes(Operand operand, Step step) const;
  int64_t blocks(Step) const { return stripsOf(rows) * splits; }
  std::string refusal() const { return matrixRefusal(format, hidden); }
  void emit(CudaKernel &k) const;
};

// Finishes q, k and v of larger steps: q for the kernel of attention, k and v into the cache.
struct CudaFinish {
  FinishSpec finish;

  std::string name() const;
  Operands operands() const;
  int64_t bytes(Operand operand, Step step) const;
  int64_t blocks(Step step) const;
  std::string refusal() const { return finishRefusal(finish); }
  void emit(CudaKernel &k) const;
};

} // namespace moe::codegen

#endif
