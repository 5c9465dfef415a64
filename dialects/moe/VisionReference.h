// The ops of the vision tower as plain loops, with those of MoeReference.
//
// A tile is S x S pixels of three bytes, or grid x grid patches of patch x patch pixels. In the
// tower it has P = grid * grid + 1 rows: its patches row by row, then its class row.
#ifndef MOE_DIALECTS_MOE_VISIONREFERENCE_H
#define MOE_DIALECTS_MOE_VISIONREFERENCE_H

#include "dialects/moe/MoeReference.h"

#include <array>

namespace moe::reference {

//===----------------------------------------------------------------------===//
// In the order of the tower's math
//===----------------------------------------------------------------------===//

/// How the bytes of pixels become values.
struct Normalization {
  float rescale;
  std::array<float, 3> mean, std; // of each channel
};

/// The value of each byte in each channel, [3, 256]. Rounded to bfloat16 three times, as the image
/// processor of transformers does for models of any type.
Values pixelValues(const Normalization &normalization);

/// tiles [tiles, side, side, 3] -> [tiles * grid * grid, 3 * patch * patch], of which the element
/// (channel * patch + y) * patch + x is that of the pixel in row y and column x of the patch.
Values patches(std::span<const uint8_t> tiles, int64_t side, int64_t patch,
               const Normalization &normalization);

/// x [tiles * grid * grid, channels], classRow [channels] -> [tiles * P, channels].
Values appendClass(View x, View classRow, int64_t grid, Rounding rounding = Rounding::None);

/// x [tiles * P, channels], table [P, channels] -> as x.
Values addPositions(View x, View table, Rounding rounding = Rounding::None);

/// The weights of a layer norm, both [channels].
struct LayerNorm {
  View weight, bias;
  float eps;
};

/// x [rows, channels] -> as x. The variance is the biased one.
Values layerNorm(View x, const LayerNorm &norm, Rounding rounding = Rounding::None);

/// x [rows, channels], weight [outputs, channels], bias [outputs] -> [rows, outputs].
Values linearBias(View x, View weight, View bias, Rounding rounding = Rounding::None);

/// Cosines and sines in turn, [P, headDim], by which the channel pairs of a head are turned. With
/// f[i] = theta^(-4 i / headDim): the first half of the pairs of the patch in row y and column x by
/// (x + 1) f, the second by (y + 1) f; those of the class row not at all.
Values patchRopeTable(int64_t headDim, int64_t grid, float theta);

/// x [tiles * P, heads * headDim] -> as x.
Values patchRope(View x, int64_t heads, int64_t headDim, int64_t grid, float theta,
                 Rounding rounding = Rounding::None);

/// queries, keys, values [tiles * P, heads * headDim] -> the same shape: each row attends to all of
/// its tile.
Values tileAttention(View queries, View keys, View values, int64_t heads, int64_t headDim,
                     int64_t grid, Rounding rounding = Rounding::None);

/// x (1 + erf(x / sqrt 2)) / 2.
Values gelu(View x, Rounding rounding = Rounding::None);

/// x [tiles * P, channels] -> [tiles * grid * grid, channels].
Values dropClass(View x, int64_t channels, int64_t grid);

/// x [tiles * grid * grid, channels] -> [tiles * grid * grid / 4, 4 * channels]: channel c of the
/// patch in row 2i + a and column 2j + b becomes channel (2a + b) * channels + c of row
/// i * grid / 2 + j.
Values pixelShuffle(View x, int64_t channels, int64_t grid);

//===----------------------------------------------------------------------===//
// Fused, by composition of the above
//===----------------------------------------------------------------------===//

/// The weights of what enters the tower: weight [channels, 3 * patch * patch], classRow [channels],
/// positions [P, channels].
struct PatchEmbedding {
  View weight, classRow, positions;
  LayerNorm norm;
};

/// tiles [tiles, side, side, 3] -> [tiles * P, channels].
Values patchEmbed(std::span<const uint8_t> tiles, int64_t side, int64_t patch,
                  const Normalization &normalization, const PatchEmbedding &weights,
                  Rounding rounding = Rounding::None);

/// x [tiles * P, channels], weight [3 * heads * headDim, channels], bias [3 * heads * headDim]
/// -> [tiles * P, 3 * heads * headDim]: queries and keys, turned, and values.
Values towerQkv(View x, const LayerNorm &norm, View weight, View bias, int64_t heads, int64_t grid,
                float theta, Rounding rounding = Rounding::None);

/// qkv [tiles * P, 3 * heads * headDim] -> [tiles * P, heads * headDim].
Values towerAttention(View qkv, int64_t heads, int64_t headDim, int64_t grid,
                      Rounding rounding = Rounding::None);

/// What precedes and follows a linear layer of the tower. Empty views: nothing.
struct ProjectionOptions {
  std::optional<LayerNorm> norm;
  View bias; // [outputs]
  bool gelu = false;
  View residual; // [rows, outputs]
};

/// x [rows, channels], weight [outputs, channels] -> [rows, outputs].
Values projection(View x, View weight, int64_t channels, const ProjectionOptions &options,
                  Rounding rounding = Rounding::None);

/// x [tiles * P, channels] -> [tiles * grid * grid / 4, 4 * channels].
Values towerOutput(View x, const LayerNorm &norm, int64_t grid, Rounding rounding = Rounding::None);

} // namespace moe::reference

#endif
