// What the kernels of GPUs have in common in numbers: strips of weights, tiles of tokens, and the
// shares that a small step's work is cut into.
#ifndef MOE_COMPILER_TARGETS_CUDA_STRIPS_H
#define MOE_COMPILER_TARGETS_CUDA_STRIPS_H

#include "compiler/kernels/Contract.h"

namespace moe::codegen {

inline constexpr int64_t kSmallTokens = 8;     // the most tokens of a small step
inline constexpr int64_t kStripRows = 16;      // weight rows of a strip of fragments
inline constexpr int64_t kFragmentBytes = 512; // 16 rows by 16 columns
// How names call kernels whose tiles do not go by the step, and that all larger programs share.
inline constexpr int64_t kAnyTile = 64;
inline constexpr int64_t kMultiprocessors = 132; // what splits are chosen for (H100)

inline constexpr WeightFormat kBf16{Storage::BF16};

inline int64_t stripsOf(int64_t rows) { return llvm::divideCeil(rows, kStripRows); }
// Strips of gate and up: eight channels of each.
inline int64_t gateUpStrips(int64_t width) { return llvm::divideCeil(width, kStripRows / 2); }
// Tiles of 128 rows, of so many strips.
inline int64_t rowTiles(int64_t strips) { return llvm::divideCeil(strips, 8); }
// Pieces of work of a larger step's product: tiles of rows by tiles of tokens.
inline int64_t tiledPieces(int64_t strips, int64_t tokens, int64_t tile) {
  return rowTiles(strips) * llvm::divideCeil(tokens, tile);
}
// Tiles of the groups that tokens of the same expert are, at most.
inline int64_t groupTiles(int64_t experts, int64_t tokens, int64_t tile) {
  return std::min(experts, tokens) + tokens / tile;
}

// Float32 sums of a strip, for the tokens of a small step: what shares of K leave to each other.
inline constexpr int64_t kStripSumBytes = kStripRows * kSmallTokens * 4;

// Rows of bf16 that feed a product.
inline int64_t rowBytes16(int64_t channels) { return padded(channels) * 2; }

// In how many shares blocks read `rows` rows of weights of `columns` columns in a small step, so
// that the pieces fill the multiprocessors of a large GPU evenly.
int64_t splitsOf(int64_t rows, int64_t columns);

// Whether kernels multiply matrices of `columns` columns that are stored so: bf16, codes in groups
// of 128, 64, 32 or 16 columns or, without zeros, of whole rows.
bool takenAsFragments(const WeightFormat &format, int64_t columns);

// Why they do not, or empty; of a mixture of experts, too.
std::string matrixRefusal(const WeightFormat &format, int64_t columns);
std::string expertsRefusal(const WeightFormat &shared, const WeightFormat &routed, int64_t columns,
                           int64_t experts, int64_t k);

// How names of kernels end: "_t64", "_t8_s2".
std::string tileName(int64_t tile, int64_t splits = 1);

} // namespace moe::codegen

#endif
