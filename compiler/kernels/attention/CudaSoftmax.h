// The step of an online softmax in base 2, of the two rows of a lane.
#ifndef MOE_COMPILER_KERNELS_ATTENTION_CUDASOFTMAX_H
#define MOE_COMPILER_KERNELS_ATTENTION_CUDASOFTMAX_H

#include "compiler/targets/cuda/CudaKernel.h"

namespace moe::codegen {

// Takes scores into each row's maximum and total, the first four of `state` (WarpAttention::State),
// and makes them weights. Returns what each row's sums so far are to be multiplied by.
std::array<Val, 2> weigh(CudaKernel &k, llvm::MutableArrayRef<Val> state,
                         llvm::MutableArrayRef<Val> scores);

// Weights as the first operand of a product, four i32 for each 16 positions.
llvm::SmallVector<Val> packWeights(CudaKernel &k, Half type, llvm::ArrayRef<Val> weights);

} // namespace moe::codegen

#endif
