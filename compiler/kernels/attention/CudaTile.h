// Where values of a kernel lie in a tile of keys, values or queries.
#ifndef MOE_COMPILER_KERNELS_ATTENTION_CUDATILE_H
#define MOE_COMPILER_KERNELS_ATTENTION_CUDATILE_H

#include "compiler/kernels/attention/AttentionLayout.h"
#include "compiler/targets/cuda/CudaKernel.h"

namespace moe::codegen {

// Where chunk `chunk` (of 8 channels) of a tile's row begins; firstPanel: it is in that.
Val offsetIn(TileLayout layout, Val row, Val chunk, bool firstPanel = false);

} // namespace moe::codegen

#endif
