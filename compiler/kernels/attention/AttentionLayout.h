// How keys and values lie in a page on a GPU, and how attention is cut into pieces of work.
//
// A layer's part of a page has, for each head, a tile of 64 keys and then one of 64 values, 16-bit
// floats. A tile is cut into panels of `period` chunks of 8 channels (16 bytes); a panel has a row
// of these for each position. Inside a row chunks trade places: chunk c of row r lies at c ^ (r /
// (8 / period)) % period.
//
// A panel is one of the canonical layouts of wgmma, swizzled by 128, 64 or 32 bytes: with positions
// as the columns of B and channels as K for keys, with channels as columns for values. A tile is
// copied to shared memory as it is, by plain bulk copies, and the tensor cores read it there. For
// ldmatrix the same chunk of eight rows lies in different banks.
#ifndef MOE_COMPILER_KERNELS_ATTENTION_ATTENTIONLAYOUT_H
#define MOE_COMPILER_KERNELS_ATTENTION_ATTENTIONLAYOUT_H

#include "compiler/kernels/attention/CacheSpec.h"

namespace moe::codegen {

// A layer's part of a page.
inline int64_t cudaLayerBytes(const CacheSpec &c) {
  return c.heads * 2 * kPageTokens * c.headDim * 2;
}

struct TileLayout {
  int64_t headDim; // a multiple of 16
  int64_t rows = kPageTokens;

  int64_t bytes() const { return rows * headDim * 2; }
  int64_t headBytes() const { return 2 * bytes(); } // keys and values

  // Chunks of a panel: 8 fill all banks; fewer where a row's chunks are no multiple of that.
  int64_t period() const { return std::min<int64_t>(8, (headDim / 8) & -(headDim / 8)); }
  int64_t panels() const { return headDim / 8 / period(); }
  int64_t rowBytes() const { return period() * 16; } // of a panel
  int64_t panelBytes() const { return rows * rowBytes(); }

  // Where an element lies in its tile.
  int64_t offset(int64_t row, int64_t channel) const {
    int64_t chunk = (channel / 8 % period()) ^ (row / (8 / period()) % period());
    return channel / 8 / period() * panelBytes() + row * rowBytes() + chunk * 16 + channel % 8 * 2;
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
