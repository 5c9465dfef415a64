// The math of Llama 4's vision tower, one op at a time, for reading and for comparing with.
#include "dialects/moe/VisionReference.h"
#include "dialects/moe/ReferenceRows.h"

#include <cmath>
#include <numbers>

using namespace moe::reference;

//===----------------------------------------------------------------------===//
// In the order of the tower's math
//===----------------------------------------------------------------------===//

Values moe::reference::pixelValues(const Normalization &normalization) {
  Values table;
  for (size_t channel = 0; channel < 3; ++channel) {
    const float mean = roundToBfloat16(normalization.mean[channel]),
                std = roundToBfloat16(normalization.std[channel]);
    for (int byte = 0; byte < 256; ++byte) {
      float scaled = roundToBfloat16(float(byte) * normalization.rescale);
      table.push_back(roundToBfloat16(roundToBfloat16(scaled - mean) / std));
    }
  }
  return table;
}

Values moe::reference::patches(std::span<const uint8_t> tiles, int64_t side, int64_t patch,
                               const Normalization &normalization) {
  const Values table = pixelValues(normalization);
  const int64_t grid = side / patch, lines = rowCount(tiles.size(), side * 3); // of pixels
  Values result;
  result.reserve(tiles.size());
  for (int64_t line = 0; line < lines; line += patch) // the first line of a row of patches
    for (int64_t column = 0; column < grid; ++column)
      for (int64_t channel = 0; channel < 3; ++channel)
        for (int64_t y = 0; y < patch; ++y)
          for (int64_t x = 0; x < patch; ++x) {
            int64_t pixel = (line + y) * side + column * patch + x;
            result.push_back(table[size_t(channel * 256 + tiles[size_t(pixel * 3 + channel)])]);
          }
  return result;
}

Values moe::reference::appendClass(View x, View classRow, int64_t grid, Rounding rounding) {
  const int64_t tile = grid * grid * int64_t(classRow.size());
  Values result;
  for (int64_t t = 0; t < rowCount(x.size(), tile); ++t) {
    View patches = row(x, t, tile);
    result.insert(result.end(), patches.begin(), patches.end());
    for (float element : classRow)
      result.push_back(round(element, rounding));
  }
  return result;
}

Values moe::reference::addPositions(View x, View table, Rounding rounding) {
  Values result(x.size());
  for (size_t i = 0; i < x.size(); ++i)
    result[i] = round(x[i] + table[i % table.size()], rounding);
  return result;
}

Values moe::reference::layerNorm(View x, const LayerNorm &norm, Rounding rounding) {
  const int64_t channels = int64_t(norm.weight.size());
  Values result;
  result.reserve(x.size());
  for (int64_t r = 0; r < rowCount(x.size(), channels); ++r) {
    View in = row(x, r, channels);
    double mean = 0, variance = 0;
    for (float element : in)
      mean += element;
    mean /= double(channels);
    for (float element : in)
      variance += (element - mean) * (element - mean);
    const double scale = 1 / std::sqrt(variance / double(channels) + norm.eps);
    for (size_t c = 0; c < in.size(); ++c)
      result.push_back(
          round(float((in[c] - mean) * scale * norm.weight[c] + norm.bias[c]), rounding));
  }
  return result;
}

Values moe::reference::linearBias(View x, View weight, View bias, Rounding rounding) {
  const int64_t outputs = int64_t(bias.size()), channels = rowCount(weight.size(), outputs);
  Values result;
  for (int64_t r = 0; r < rowCount(x.size(), channels); ++r)
    for (int64_t n = 0; n < outputs; ++n)
      result.push_back(round(
          float(dot(row(x, r, channels), row(weight, n, channels)) + bias[size_t(n)]), rounding));
  return result;
}

Values moe::reference::patchRopeTable(int64_t headDim, int64_t grid, float theta) {
  const Values frequencies = ropeFrequencies(theta, headDim / 2);
  Values result;
  for (int64_t patch = 0; patch < grid * grid; ++patch)
    for (int64_t place : {patch % grid, patch / grid}) // column, then row
      for (float frequency : frequencies) {
        float angle = float(place + 1) * frequency;
        result.push_back(float(std::cos(double(angle))));
        result.push_back(float(std::sin(double(angle))));
      }
  for (int64_t pair = 0; pair < headDim / 2; ++pair)
    result.insert(result.end(), {1, 0});
  return result;
}

Values moe::reference::patchRope(View x, int64_t heads, int64_t headDim, int64_t grid, float theta,
                                 Rounding rounding) {
  const Values table = patchRopeTable(headDim, grid, theta);
  const int64_t tile = int64_t(table.size()) * heads;
  Values result;
  for (int64_t t = 0; t < rowCount(x.size(), tile); ++t) {
    Values turned = rope(row(x, t, tile), table, headDim, rounding);
    result.insert(result.end(), turned.begin(), turned.end());
  }
  return result;
}

// As the attention of a text whose tokens all see the last position.
Values moe::reference::tileAttention(View queries, View keys, View values, int64_t heads,
                                     int64_t headDim, int64_t grid, Rounding rounding) {
  const int32_t rows = int32_t(grid * grid + 1);
  std::vector<int32_t> tiles, places, last;
  for (int64_t r = 0; r < rowCount(queries.size(), heads * headDim); ++r) {
    tiles.push_back(int32_t(r) / rows);
    places.push_back(int32_t(r) % rows);
    last.push_back(rows - 1);
  }
  KvCache cache(heads, headDim);
  cache.append(keys, values, places, tiles);
  return attention(cache, queries, last, tiles, rounding);
}

Values moe::reference::gelu(View x, Rounding rounding) {
  Values result;
  result.reserve(x.size());
  for (double element : x)
    result.push_back(
        round(float(element * (1 + std::erf(element / std::numbers::sqrt2)) / 2), rounding));
  return result;
}

Values moe::reference::dropClass(View x, int64_t channels, int64_t grid) {
  const int64_t tile = (grid * grid + 1) * channels;
  Values result;
  for (int64_t t = 0; t < rowCount(x.size(), tile); ++t) {
    View patches = row(x, t, tile).first(size_t(tile - channels));
    result.insert(result.end(), patches.begin(), patches.end());
  }
  return result;
}

Values moe::reference::pixelShuffle(View x, int64_t channels, int64_t grid) {
  Values result;
  result.reserve(x.size());
  const int64_t lines = rowCount(x.size(), grid * channels); // of patches
  for (int64_t line = 0; line < lines; line += 2)
    for (int64_t column = 0; column < grid; column += 2)
      for (int64_t a = 0; a < 2; ++a)
        for (int64_t b = 0; b < 2; ++b) {
          View patch = row(x, (line + a) * grid + column + b, channels);
          result.insert(result.end(), patch.begin(), patch.end());
        }
  return result;
}

//===----------------------------------------------------------------------===//
// Fused, by composition of the above
//===----------------------------------------------------------------------===//

Values moe::reference::patchEmbed(std::span<const uint8_t> tiles, int64_t side, int64_t patch,
                                  const Normalization &normalization, const PatchEmbedding &weights,
                                  Rounding rounding) {
  Values x = linear(patches(tiles, side, patch, normalization), weights.weight, 3 * patch * patch,
                    rounding);
  x = addPositions(appendClass(x, weights.classRow, side / patch, rounding), weights.positions,
                   rounding);
  return layerNorm(x, weights.norm, rounding);
}

Values moe::reference::towerQkv(View x, const LayerNorm &norm, View weight, View bias,
                                int64_t heads, int64_t grid, float theta, Rounding rounding) {
  const int64_t width = int64_t(bias.size()), channels = width / 3; // of each of q, k and v
  const Values qkv = linearBias(layerNorm(x, norm, rounding), weight, bias, rounding);
  auto turned = [&](int64_t begin) {
    return patchRope(columns(qkv, width, begin, begin + channels), heads, channels / heads, grid,
                     theta, rounding);
  };
  const Values q = turned(0), k = turned(channels), v = columns(qkv, width, 2 * channels, width);
  Values result;
  result.reserve(qkv.size());
  for (int64_t r = 0; r < rowCount(qkv.size(), width); ++r)
    for (View part : {View(q), View(k), View(v)}) {
      View own = row(part, r, channels);
      result.insert(result.end(), own.begin(), own.end());
    }
  return result;
}

Values moe::reference::towerAttention(View qkv, int64_t heads, int64_t headDim, int64_t grid,
                                      Rounding rounding) {
  const int64_t channels = heads * headDim, width = 3 * channels;
  return tileAttention(columns(qkv, width, 0, channels),
                       columns(qkv, width, channels, 2 * channels),
                       columns(qkv, width, 2 * channels, width), heads, headDim, grid, rounding);
}

Values moe::reference::projection(View x, View weight, int64_t channels,
                                  const ProjectionOptions &options, Rounding rounding) {
  Values normed;
  if (options.norm) {
    normed = layerNorm(x, *options.norm, rounding);
    x = normed;
  }
  Values result = options.bias.empty() ? linear(x, weight, channels, rounding)
                                       : linearBias(x, weight, options.bias, rounding);
  if (options.gelu)
    result = gelu(result, rounding);
  return options.residual.empty() ? result : add(options.residual, result, rounding);
}

Values moe::reference::towerOutput(View x, const LayerNorm &norm, int64_t grid, Rounding rounding) {
  const int64_t channels = int64_t(norm.weight.size());
  return pixelShuffle(dropClass(layerNorm(x, norm, rounding), channels, grid), channels, grid);
}
