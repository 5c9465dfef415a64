// Results of several warps for the same rows, put together.
#ifndef MOE_COMPILER_KERNELS_ATTENTION_CUDAJOINER_H
#define MOE_COMPILER_KERNELS_ATTENTION_CUDAJOINER_H

#include "compiler/kernels/attention/WarpAttention.h"

namespace moe::codegen {

// Four sums.
struct Quad {
  CudaKernel &k;
  std::array<Val, 4> x;

  explicit Quad(CudaKernel &k); // zero
  void add(Val values, Val weight);
  void storeBf16(Ptr to, Val factor) const;
};

// Puts together what the eight consumer warps found out about the same rows, in order.
class Joiner {
public:
  static constexpr int64_t warps = kJoinedWarps;
  Joiner(CudaKernel &k, int64_t rows, int64_t headDim);

  void put(WarpAttention &attention, const WarpAttention::State &state);
  // After a barrier: a row's maximum, its total, and four of its channels, not yet divided.
  struct Joined {
    Val maximum, total;
    Quad values;
  };
  Joined get(Val row, Val channel);
  // All of them, by the threads of the consumer warps.
  void each(llvm::function_ref<void(Val row, Val channel, const Joined &)> body);

private:
  CudaKernel &k;
  int64_t rows, headDim, stride;
  Ptr values, stats;
};

// Zeros the padding of a row of `out`, by the consumer warps.
void clearPadding(CudaKernel &k, Ptr row, int64_t channels);

} // namespace moe::codegen

#endif
