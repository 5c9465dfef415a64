// The math of Llama 4, one op at a time, for reading and for comparing with.
#include "dialects/moe/MoeReference.h"
#include "dialects/moe/ReferenceRows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>

using namespace moe::reference;

//===----------------------------------------------------------------------===//
// bfloat16
//===----------------------------------------------------------------------===//

uint16_t moe::reference::toBfloat16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value))
    return uint16_t(bits >> 16 | 0x40); // quiet, so that the dropped bits were not all of the NaN
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float moe::reference::fromBfloat16(uint16_t bits) {
  return std::bit_cast<float>(uint32_t(bits) << 16);
}

float moe::reference::roundToBfloat16(float value) { return fromBfloat16(toBfloat16(value)); }

float moe::reference::round(float value, Rounding rounding) {
  return rounding == Rounding::Bfloat16 ? roundToBfloat16(value) : value;
}

//===----------------------------------------------------------------------===//
// Helpers
//===----------------------------------------------------------------------===//

static double inverseRms(View x, float eps) {
  return 1.0 / std::sqrt(dot(x, x) / double(x.size()) + eps);
}

//===----------------------------------------------------------------------===//
// Token-wise ops
//===----------------------------------------------------------------------===//

Values moe::reference::embed(Indices tokens, View table, int64_t channels, Rounding rounding) {
  Values result;
  result.reserve(tokens.size() * size_t(channels));
  for (int32_t token : tokens)
    for (float element : row(table, token, channels))
      result.push_back(round(element, rounding));
  return result;
}

Values moe::reference::embedWithImages(Indices tokens, View table, View images, Indices imageRows,
                                       int64_t channels, Rounding rounding) {
  assert(tokens.size() == imageRows.size());
  Values result;
  result.reserve(tokens.size() * size_t(channels));
  for (size_t t = 0; t < tokens.size(); ++t)
    for (float element :
         imageRows[t] < 0 ? row(table, tokens[t], channels) : row(images, imageRows[t], channels))
      result.push_back(round(element, rounding));
  return result;
}

Values moe::reference::rmsNorm(View x, View weight, float eps, Rounding rounding) {
  int64_t channels = int64_t(weight.size());
  Values result(x.size());
  for (int64_t t = 0; t < rowCount(x.size(), channels); ++t) {
    View in = row(x, t, channels);
    std::span<float> out = row(std::span(result), t, channels);
    double scale = inverseRms(in, eps);
    for (int64_t c = 0; c < channels; ++c) // the normalised value is rounded before the product
      out[c] = round(round(float(in[c] * scale), rounding) * weight[c], rounding);
  }
  return result;
}

Values moe::reference::linear(View x, View weight, int64_t channels, Rounding rounding) {
  int64_t tokens = rowCount(x.size(), channels), outputs = rowCount(weight.size(), channels);
  Values result;
  result.reserve(size_t(tokens * outputs));
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t n = 0; n < outputs; ++n)
      result.push_back(round(float(dot(row(x, t, channels), row(weight, n, channels))), rounding));
  return result;
}

Values moe::reference::swiglu(View gate, View up, Rounding rounding) {
  assert(gate.size() == up.size());
  Values result(gate.size());
  for (size_t i = 0; i < gate.size(); ++i) {
    float silu = float(gate[i] / (1.0 + std::exp(-double(gate[i]))));
    result[i] = round(round(silu, rounding) * up[i], rounding);
  }
  return result;
}

Values moe::reference::add(View a, View b, Rounding rounding) {
  assert(a.size() == b.size());
  Values result(a.size());
  for (size_t i = 0; i < a.size(); ++i)
    result[i] = round(a[i] + b[i], rounding);
  return result;
}

Values moe::reference::selectRows(View x, Indices rows, int64_t channels) {
  return embed(rows, x, channels, Rounding::None);
}

//===----------------------------------------------------------------------===//
// Queries and keys
//===----------------------------------------------------------------------===//

Values moe::reference::ropeFrequencies(float theta, int64_t headDim,
                                       std::optional<RopeScaling> scaling) {
  Values result;
  for (int64_t channel = 0; channel + 1 < headDim; channel += 2) {
    float frequency = 1.0f / std::pow(theta, float(channel) / float(headDim));
    if (scaling) {
      // Compare first: Scout has low = high, where blending would divide by zero.
      auto [factor, low, high, context] = *scaling;
      float wavelength = 2 * std::numbers::pi_v<float> / frequency;
      if (wavelength > context / low) {
        frequency /= factor;
      } else if (wavelength >= context / high) {
        float smooth = (context / wavelength - low) / (high - low);
        frequency = (1 - smooth) * frequency / factor + smooth * frequency;
      }
    }
    result.push_back(frequency);
  }
  return result;
}

Values moe::reference::ropeTable(Indices positions, View frequencies) {
  Values result;
  for (int32_t position : positions) {
    for (float frequency : frequencies) {
      // The reference rounds the angle to float32, which at a million positions moves it by 0.03.
      float angle = float(position) * frequency;
      result.push_back(float(std::cos(double(angle))));
      result.push_back(float(std::sin(double(angle))));
    }
  }
  return result;
}

Values moe::reference::rope(View x, View table, int64_t headDim, Rounding rounding) {
  int64_t tokens = rowCount(table.size(), headDim);
  int64_t heads = tokens ? rowCount(x.size(), tokens * headDim) : 0;
  Values result(x.size());
  for (int64_t t = 0; t < tokens; ++t) {
    View angles = row(table, t, headDim);
    for (int64_t h = 0; h < heads; ++h) {
      View in = row(x, t * heads + h, headDim);
      std::span<float> out = row(std::span(result), t * heads + h, headDim);
      for (int64_t i = 0; i + 1 < headDim; i += 2) {
        double cosine = angles[i], sine = angles[i + 1];
        out[i] = round(float(in[i] * cosine - in[i + 1] * sine), rounding);
        out[i + 1] = round(float(in[i] * sine + in[i + 1] * cosine), rounding);
      }
    }
  }
  return result;
}

Values moe::reference::headNorm(View x, int64_t headDim, float eps, Rounding rounding) {
  Values result;
  result.reserve(x.size());
  for (int64_t h = 0; h < rowCount(x.size(), headDim); ++h) {
    View head = row(x, h, headDim);
    double scale = inverseRms(head, eps);
    for (float element : head)
      result.push_back(round(float(element * scale), rounding));
  }
  return result;
}

Values moe::reference::temperature(View x, Indices positions, float scale, float floor,
                                   Rounding rounding) {
  int64_t tokens = int64_t(positions.size());
  int64_t channels = rowCount(x.size(), tokens);
  Values result;
  result.reserve(x.size());
  for (int64_t t = 0; t < tokens; ++t) {
    float steps = std::floor((float(positions[t]) + 1.0f) / floor);
    float factor = float(1.0 + double(scale) * std::log1p(double(steps)));
    for (float element : row(x, t, channels))
      result.push_back(round(element * factor, rounding));
  }
  return result;
}

//===----------------------------------------------------------------------===//
// Attention
//===----------------------------------------------------------------------===//

/// Rounds one key or value of a head to what a cache keeps.
static void store(View from, KvCache::Storage storage, std::span<float> to) {
  float most = 0;
  for (float element : from) // a NaN stays, and all elements become NaN
    most = std::isnan(element) ? element : std::max(most, std::abs(element));
  for (size_t c = 0; c < from.size(); ++c)
    switch (storage) {
    case KvCache::Storage::Float32:
      to[c] = from[c];
      break;
    case KvCache::Storage::Bfloat16:
      to[c] = roundToBfloat16(from[c]);
      break;
    case KvCache::Storage::Int8:
      to[c] = most == 0 ? 0 : float(std::nearbyint(from[c] * 127.0 / most) * most / 127);
    }
}

void KvCache::append(View keys, View values, Indices positions, Indices sequences) {
  int64_t channels = heads * headDim;
  assert(keys.size() == positions.size() * size_t(channels) && values.size() == keys.size());
  assert(positions.size() == sequences.size());
  for (size_t t = 0; t < positions.size(); ++t) {
    Sequence &sequence = sequencesById[sequences[t]];
    size_t begin = size_t(positions[t] * channels), end = begin + size_t(channels);
    if (sequence.keys.size() < end) {
      sequence.keys.resize(end, std::numeric_limits<float>::quiet_NaN());
      sequence.values.resize(end, std::numeric_limits<float>::quiet_NaN());
    }
    for (int64_t head = 0; head < heads; ++head) {
      int64_t from = int64_t(t) * heads + head, to = int64_t(positions[t]) * heads + head;
      store(row(keys, from, headDim), storage, row(std::span(sequence.keys), to, headDim));
      store(row(values, from, headDim), storage, row(std::span(sequence.values), to, headDim));
    }
  }
}

int64_t KvCache::length(int32_t sequence) const {
  auto found = sequencesById.find(sequence);
  return found == sequencesById.end() ? 0 : rowCount(found->second.keys.size(), heads * headDim);
}

View KvCache::key(int32_t sequence, int64_t position, int64_t head) const {
  return row(View(sequencesById.at(sequence).keys), position * heads + head, headDim);
}

View KvCache::value(int32_t sequence, int64_t position, int64_t head) const {
  return row(View(sequencesById.at(sequence).values), position * heads + head, headDim);
}

/// One query head of one token.
static void attendHead(const KvCache &cache, View query, int32_t sequence, int64_t position,
                       int64_t head, std::span<float> out, Rounding rounding) {
  int64_t first = cache.firstVisible(position);
  std::vector<double> weights;
  for (int64_t p = first; p <= position; ++p)
    weights.push_back(dot(query, cache.key(sequence, p, head)) / std::sqrt(double(query.size())));
  double largest = *std::max_element(weights.begin(), weights.end());
  double sum = 0;
  for (double &weight : weights) {
    weight = std::exp(weight - largest);
    sum += weight;
  }
  std::vector<double> blend(query.size());
  for (int64_t p = first; p <= position; ++p) {
    View value = cache.value(sequence, p, head);
    for (size_t c = 0; c < blend.size(); ++c)
      blend[c] += weights[size_t(p - first)] * value[c];
  }
  for (size_t c = 0; c < blend.size(); ++c)
    out[c] = round(float(blend[c] / sum), rounding);
}

Values moe::reference::attention(const KvCache &cache, View queries, Indices positions,
                                 Indices sequences, Rounding rounding) {
  assert(positions.size() == sequences.size());
  int64_t tokens = int64_t(positions.size());
  int64_t queryHeads = rowCount(rowCount(queries.size(), tokens), cache.headDim);
  int64_t group = queryHeads / cache.heads; // query heads that share a key and value head
  Values result(queries.size());
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t h = 0; h < queryHeads; ++h)
      attendHead(cache, row(queries, t * queryHeads + h, cache.headDim), sequences[t], positions[t],
                 h / group, row(std::span(result), t * queryHeads + h, cache.headDim), rounding);
  return result;
}

//===----------------------------------------------------------------------===//
// Experts
//===----------------------------------------------------------------------===//

Routing moe::reference::route(View logits, int64_t experts, int64_t k, Rounding rounding) {
  Routing routing;
  for (int64_t t = 0; t < rowCount(logits.size(), experts); ++t) {
    Values left; // ties are those of the rounded logits
    for (float logit : row(logits, t, experts))
      left.push_back(round(logit, rounding));
    std::vector<bool> taken(size_t(experts), false);
    for (int64_t s = 0; s < k; ++s) {
      int64_t best = std::find(taken.begin(), taken.end(), false) - taken.begin();
      for (int64_t e = best + 1; e < experts; ++e)
        if (!taken[e] && left[e] > left[best])
          best = e;
      taken[best] = true;
      routing.experts.push_back(int32_t(best));
      routing.scores.push_back(round(float(1.0 / (1.0 + std::exp(-double(left[best])))), rounding));
    }
  }
  return routing;
}

Values moe::reference::experts(View x, Indices chosen, View scores, View gate, View up, View down,
                               int64_t channels, int64_t width, Rounding rounding) {
  int64_t tokens = rowCount(x.size(), channels), k = rowCount(chosen.size(), tokens);
  int64_t weightSize = width * channels;
  Values result;
  result.reserve(x.size());
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<double> sum(size_t(channels), 0);
    for (int64_t slot = t * k; slot < (t + 1) * k; ++slot) {
      int64_t e = chosen[slot];
      Values u; // the score scales the input, which is not the same as scaling the output
      for (float element : row(x, t, channels))
        u.push_back(round(element * scores[slot], rounding));
      Values inner = swiglu(linear(u, row(gate, e, weightSize), channels, rounding),
                            linear(u, row(up, e, weightSize), channels, rounding), rounding);
      Values y = linear(inner, row(down, e, weightSize), width, rounding);
      for (int64_t c = 0; c < channels; ++c)
        sum[c] += y[c];
    }
    for (double element : sum)
      result.push_back(round(float(element), rounding));
  }
  return result;
}

//===----------------------------------------------------------------------===//
// Fused: whole blocks
//===----------------------------------------------------------------------===//

Values moe::reference::qkv(View x, View norm, View weight, float eps, Rounding rounding) {
  return linear(rmsNorm(x, norm, eps, rounding), weight, int64_t(norm.size()), rounding);
}

Values moe::reference::attentionBlock(KvCache &cache, View qkv, Indices positions,
                                      Indices sequences, const AttentionOptions &options,
                                      Rounding rounding) {
  int64_t width = rowCount(qkv.size(), int64_t(positions.size()));
  int64_t valueBegin = width - cache.heads * cache.headDim;
  int64_t keyBegin = valueBegin - cache.heads * cache.headDim;
  Values q = columns(qkv, width, 0, keyBegin);
  Values k = columns(qkv, width, keyBegin, valueBegin);
  Values v = columns(qkv, width, valueBegin, width);
  if (!options.ropeTable.empty()) {
    q = rope(q, options.ropeTable, cache.headDim, rounding);
    k = rope(k, options.ropeTable, cache.headDim, rounding);
  }
  if (options.qkNormEps) {
    q = headNorm(q, cache.headDim, *options.qkNormEps, rounding);
    k = headNorm(k, cache.headDim, *options.qkNormEps, rounding);
  }
  if (options.temperature)
    q = temperature(q, positions, options.temperature->scale, options.temperature->floor, rounding);
  cache.append(k, v, positions, sequences);
  return attention(cache, q, positions, sequences, rounding);
}

Values moe::reference::linearResidual(View x, View weight, View residual, int64_t inputs,
                                      Rounding rounding) {
  return add(residual, linear(x, weight, inputs, rounding), rounding);
}

/// down(swiglu(gate(n), up(n))), the rows of the gate before those of the up projection.
static Values gatedMlp(View n, View gateUp, View down, int64_t channels, Rounding rounding) {
  size_t half = gateUp.size() / 2;
  Values inner = swiglu(linear(n, gateUp.first(half), channels, rounding),
                        linear(n, gateUp.last(half), channels, rounding), rounding);
  return linear(inner, down, rowCount(half, channels), rounding);
}

Values moe::reference::moeBlock(View x, View norm, View router, View sharedGateUp, View gateUp,
                                View sharedDown, View down, int64_t k, float eps,
                                Rounding rounding) {
  int64_t channels = int64_t(norm.size());
  int64_t expertCount = rowCount(router.size(), channels);
  int64_t downSize = int64_t(sharedDown.size());
  int64_t width = rowCount(size_t(downSize), channels);
  Values n = rmsNorm(x, norm, eps, rounding);
  Values shared = gatedMlp(n, sharedGateUp, sharedDown, channels, rounding);
  // The routed experts' gates and ups, apart.
  Values gate = columns(gateUp, 2 * downSize, 0, downSize);
  Values up = columns(gateUp, 2 * downSize, downSize, 2 * downSize);
  Routing routing = route(linear(n, router, channels, rounding), expertCount, k, rounding);
  Values routed =
      experts(n, routing.experts, routing.scores, gate, up, down, channels, width, rounding);
  return add(x, add(shared, routed, rounding), rounding);
}

Values moe::reference::mlpBlock(View x, View norm, View gateUp, View down, float eps,
                                Rounding rounding) {
  Values n = rmsNorm(x, norm, eps, rounding);
  return add(x, gatedMlp(n, gateUp, down, int64_t(norm.size()), rounding), rounding);
}

Values moe::reference::head(View x, Indices rows, View norm, View weight, float eps,
                            Rounding rounding) {
  return linear(finalNorm(x, rows, norm, eps, rounding), weight, int64_t(norm.size()), rounding);
}

Values moe::reference::finalNorm(View x, Indices rows, View norm, float eps, Rounding rounding) {
  return rmsNorm(selectRows(x, rows, int64_t(norm.size())), norm, eps, rounding);
}
