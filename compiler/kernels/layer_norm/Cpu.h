// LayerNorm of a row on a CPU, for the kernels that need it.
#ifndef MOE_COMPILER_KERNELS_LAYER_NORM_CPU_H
#define MOE_COMPILER_KERNELS_LAYER_NORM_CPU_H

#include "compiler/targets/cpu/CpuKernel.h"

namespace moe::codegen {

struct LayerNormWeights {
  Ptr norm, bias; // float32
  int64_t channels;
  float eps;
};

// use(channel, vector): (x - mean) / sqrt(variance + eps) * norm + bias, of all channels in order.
// The variance is that of the deviations, not the difference of two mean squares, which would lose
// what a large mean leaves of it.
void layerNorm(CpuKernel &k, Ptr x, const LayerNormWeights &weights,
               llvm::function_ref<void(Val, Val)> use);

// The same as a row that feeds a product, padded. `floats`: room for padded(channels) float32.
void layerNorm(CpuKernel &k, Ptr x, const LayerNormWeights &weights, const ActivationRow &row,
               Ptr floats, Ptr to);

} // namespace moe::codegen

#endif
