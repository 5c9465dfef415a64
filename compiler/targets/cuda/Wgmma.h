// The tensor cores' asynchronous products of a warpgroup, m64nNk16, where the first operand is in
// registers and the second in shared memory. Only where target.wgmma.
#ifndef MOE_COMPILER_TARGETS_CUDA_WGMMA_H
#define MOE_COMPILER_TARGETS_CUDA_WGMMA_H

#include "compiler/targets/cuda/CudaKernel.h"

namespace moe::codegen {

// The second operand, [K, N] of 16-bit elements in one of the canonical swizzled layouts: rows of
// `rowBytes` (128, 64 or 32) in which 16-byte chunks trade places as the swizzle of that width has
// it, in groups of eight rows that lie `rowBytes` * 8 apart.
struct SharedOperand {
  Ptr start; // a multiple of 8 rows
  int64_t rowBytes;
  bool byColumn;     // a row holds some K of one column of N; otherwise some N of one K
  int64_t panel = 0; // bytes from some N to the next that do not fit in a row; not byColumn
  llvm::SmallVector<int64_t> steps{}; // where each 16 of K begin, in bytes from `start`
};

// What a thread has of a product's 64 rows and N columns: with g = lane / 4, q = lane % 4 and w the
// warp of the warpgroup, sum 4 n + 2 h + i is of row 16 w + g + 8 h, column 8 n + 2 q + i. Of the
// first operand four i32 for each 16 of K, in the order of mma.m16n8k16.
//
// sums + a b, begun; without sums a b of `columns` columns. The results are there only when they
// have gone through awaitWgmma. `a` may not be written until then, nor shared memory.
llvm::SmallVector<Val> beginWgmma(CudaKernel &k, Half type, llvm::ArrayRef<Val> sums,
                                  int64_t columns, llvm::ArrayRef<Val> a, const SharedOperand &b);

// Waits until at most `inFlight` of the products begun later are not done; `sums` and `a` are those
// of the product that is waited for.
llvm::SmallVector<Val> awaitWgmma(CudaKernel &k, llvm::ArrayRef<Val> sums, llvm::ArrayRef<Val> a,
                                  int64_t inFlight = 0);

} // namespace moe::codegen

#endif
