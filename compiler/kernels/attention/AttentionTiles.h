// Attention over the pages of a step, for the kernels that end with it.
#ifndef MOE_COMPILER_KERNELS_ATTENTION_ATTENTIONTILES_H
#define MOE_COMPILER_KERNELS_ATTENTION_ATTENTIONTILES_H

#include "compiler/targets/cpu/CpuKernel.h"

namespace moe::codegen {

// As of AttentionSpec.
struct AttentionOperands {
  Ptr positions, sequences, blocks, q, cache, out;
};

// The part of attention that is this worker's: mine(block of tokens, key-value head) is an i1.
void emitAttentionTiles(CpuKernel &k, const AttentionSpec &s, const AttentionOperands &operands,
                        llvm::function_ref<Val(Val, Val)> mine);

} // namespace moe::codegen

#endif
