// Attention over the pages of a step, for the kernels that end with it.
#ifndef MOE_COMPILER_KERNELS_ATTENTION_ATTENTIONTILES_H
#define MOE_COMPILER_KERNELS_ATTENTION_ATTENTIONTILES_H

#include "compiler/kernels/attention/Attention.h"
#include "compiler/targets/cpu/CpuKernel.h"

namespace moe::codegen {

// Those of CpuAttention.
struct AttentionOperands {
  Ptr positions, sequences, blocks, q, cache, out;
};

// The part of attention that is this worker's: mine(block of tokens, key-value head) is an i1.
void emitAttentionTiles(CpuKernel &k, const CpuAttention &s, const AttentionOperands &operands,
                        llvm::function_ref<Val(Val, Val)> mine);

} // namespace moe::codegen

#endif
