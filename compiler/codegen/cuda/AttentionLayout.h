// How keys and values lie in a page on a GPU, and how attention is cut into pieces of work.
//
// A layer's part of a page has, for each head, a tile of 64 keys and then one of 64 values: rows of
// head_dim 16-bit floats, by position. Inside a row, chunks of 8 channels (16 bytes) trade places:
// chunk c of row r lies at c ^ (r / (8 / period)) % period. A tile is copied to shared memory as it
// is, and there the same chunk of eight rows, which ldmatrix reads at once, lies in different
// banks.
#ifndef MOE_COMPILER_CODEGEN_CUDA_ATTENTIONLAYOUT_H
#define MOE_COMPILER_CODEGEN_CUDA_ATTENTIONLAYOUT_H

#include "compiler/codegen/KernelSpec.h"

namespace moe::codegen {

struct TileLayout {
  int64_t headDim; // a multiple of 16

  int64_t rowBytes() const { return headDim * 2; }
  int64_t bytes() const { return kPageTokens * rowBytes(); }
  int64_t headBytes() const { return 2 * bytes(); }

  // Chunks that trade places: 8 fill all banks; fewer where a row's chunks are no multiple of that.
  int64_t period() const { return std::min<int64_t>(8, (headDim / 8) & -(headDim / 8)); }

  // Where an element lies in its tile.
  int64_t offset(int64_t row, int64_t channel) const {
    int64_t chunk = (channel / 8) ^ (row / (8 / period()) % period());
    return row * rowBytes() + chunk * 16 + channel % 8 * 2;
  }
};

// Where one row's results of the warps that share the positions meet, with room that spreads rows
// over the banks.
inline constexpr int64_t kJoinedWarps = 8, kJoinedPad = 8;
inline int64_t joinedBytes(int64_t headDim) {
  return kJoinedWarps * (headDim + kJoinedPad + 2) * 4;
}

// Rows of queries that a block has at once: of fused attention the heads of a token, as many as the
// 16 of a product and shared memory hold; of tiled attention those of several tokens.
inline int64_t fusedRows(int64_t headDim) {
  return std::min<int64_t>(16, (72 << 10) / joinedBytes(headDim));
}
inline constexpr int64_t kTiledRows = 128;

// How many of the query heads that share a key-value head are worked on together: the most that
// divide the group and are at most `rows`.
inline int64_t headsTogether(int64_t group, int64_t rows) {
  int64_t heads = std::min(group, rows);
  while (group % heads)
    --heads;
  return heads;
}

// Consecutive tokens of a piece of work of tiled attention.
inline int64_t tiledTokens(int64_t group) {
  return std::max<int64_t>(1, kTiledRows / headsTogether(group, kTiledRows));
}

} // namespace moe::codegen

#endif
