// RMSNorm of a few rows of h by a whole block.
#ifndef MOE_COMPILER_KERNELS_NORM_NORMROWS_H
#define MOE_COMPILER_KERNELS_NORM_NORMROWS_H

#include "compiler/targets/cuda/CudaKernel.h"

namespace moe::codegen {

class NormRows {
public:
  // Of at most `most` rows at once. k.threads must be set. Where `most` is more than 1, `rows` is
  // room for them in shared memory: float32 [most][padded(hidden)].
  NormRows(CudaKernel &k, int64_t most, int64_t hidden, float eps, Ptr rows);

  // By all threads, with barriers inside: norms row i of `count` rows from rowOf(i), and gives each
  // thread its channels: use(i, c, four float32 of channels c..). Channels of the padding are zero.
  void run(int64_t count, llvm::function_ref<Ptr(int64_t)> rowOf, Ptr norm,
           llvm::function_ref<void(int64_t, Val, Val)> use);

private:
  Val load(Ptr row, Val c, bool constantMemory); // four channels, zero past the last
  Ptr kept(int64_t i, Val c) { return k.offset(rows, i * padded(hidden) * 4 + c * 4); }

  CudaKernel &k;
  int64_t hidden;
  float eps;
  Ptr rows, partial;
};

} // namespace moe::codegen

#endif
