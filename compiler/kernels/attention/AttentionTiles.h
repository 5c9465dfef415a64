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

// What a token attends to is cut into segments of whole pages, each with a softmax of its own,
// which are folded into one in their order. The cut depends on the token alone, and so does every
// bit of the result: at most 32 segments' worth of pages, hence at most 33 where they begin in the
// midst of one, and another where tokens of a tile begin in different chunks.
inline constexpr int64_t kShortestSegment = 8, kMostSegments = 34; // in pages; of a tile

// Where the workers of a small step leave each other the segments of a key-value head that they
// made. Whoever made the last one folds them.
struct SharedSegments {
  Ptr partials; // SharedSegments::bytes
  Ptr counters; // int32 [tokens, key-value heads], zero before and, up to `leave`, not after

  // Sums, maximum and total of a row, 64-byte aligned.
  static int64_t rowBytes(const CacheSpec &cache) { return padded(cache.headDim) * 4 + 64; }
  static int64_t bytes(const CpuAttention &s, int64_t tokens) {
    return tokens * s.heads * kMostSegments * rowBytes(s.cache);
  }
};

// Attention of all tokens, piece by piece: of a few tokens and a key-value head, and where segments
// are shared of one of those. Nothing of a head is read before ready(head).
void emitAttentionTiles(CpuKernel &k, const CpuAttention &s, const AttentionOperands &operands,
                        Ptr claims, const std::optional<SharedSegments> &shared,
                        llvm::function_ref<void(Val head)> ready);

} // namespace moe::codegen

#endif
