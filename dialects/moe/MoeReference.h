// Each op of the moe dialect as plain loops: the oracle of the passes and of the kernels. It needs
// the C++ library only, so that the runtime's tests can link it.
//
// Matrices are row-major; `[tokens, channels]` in a comment gives the shape of a view. A function
// takes only the sizes that the views do not tell.
#ifndef MOE_DIALECTS_MOE_MOEREFERENCE_H
#define MOE_DIALECTS_MOE_MOEREFERENCE_H

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

namespace moe::reference {

using Values = std::vector<float>;
using View = std::span<const float>;
using Indices = std::span<const int32_t>;

/// What happens to each intermediate value. `None` keeps float32. `Bfloat16` rounds wherever the
/// bf16 model of Hugging Face transformers does, so that its choices of experts can be reproduced.
/// Sums are accumulated in double either way.
enum class Rounding { None, Bfloat16 };

//===----------------------------------------------------------------------===//
// bfloat16
//===----------------------------------------------------------------------===//

/// The nearest bfloat16, ties to even. A NaN stays a NaN.
uint16_t toBfloat16(float value);
float fromBfloat16(uint16_t bits);
float roundToBfloat16(float value);
float round(float value, Rounding rounding);

//===----------------------------------------------------------------------===//
// The model in the order of its math
//===----------------------------------------------------------------------===//

/// table [vocabulary, channels] -> [tokens, channels]. Each token is below the vocabulary's size.
Values embed(Indices tokens, View table, int64_t channels, Rounding rounding = Rounding::None);

/// The same with images [rows, channels] and imageRows [tokens]: where that is not negative, it is
/// the row of `images` that a token takes in place of its own.
Values embedWithImages(Indices tokens, View table, View images, Indices imageRows, int64_t channels,
                       Rounding rounding = Rounding::None);

/// x [tokens, channels], weight [channels] -> [tokens, channels].
Values rmsNorm(View x, View weight, float eps, Rounding rounding = Rounding::None);

/// x [tokens, channels], weight [outputs, channels] -> [tokens, outputs].
Values linear(View x, View weight, int64_t channels, Rounding rounding = Rounding::None);

/// The `llama3` kind of RoPE scaling: long wavelengths are stretched by `factor`.
struct RopeScaling {
  float factor;
  float lowFrequencyFactor;
  float highFrequencyFactor;
  float originalContext;
};

/// Radians per position of each channel pair of a head: headDim / 2 values.
Values ropeFrequencies(float theta, int64_t headDim, std::optional<RopeScaling> scaling = {});

/// frequencies [headDim / 2] -> [tokens, headDim], cosine and sine in turn.
Values ropeTable(Indices positions, View frequencies);

/// x [tokens, heads * headDim], table [tokens, headDim] -> the shape of x.
Values rope(View x, View table, int64_t headDim, Rounding rounding = Rounding::None);

/// x [tokens, heads * headDim] -> the shape of x.
Values headNorm(View x, int64_t headDim, float eps, Rounding rounding = Rounding::None);

/// x [tokens, channels], positions [tokens] -> the shape of x.
Values temperature(View x, Indices positions, float scale, float floor,
                   Rounding rounding = Rounding::None);

/// The keys and values of one layer. A position that was never written reads as NaN, so that a
/// model that looks where it must not is found out.
class KvCache {
public:
  /// How a cache keeps its elements. Int8: those of a key or a value of a head as codes of -127 to
  /// 127 times their largest magnitude / 127.
  enum class Storage { Float32, Bfloat16, Int8 };

  /// `chunk` 0: a query sees all earlier positions.
  KvCache(int64_t heads, int64_t headDim, int64_t chunk = 0, Storage storage = Storage::Float32)
      : heads(heads), headDim(headDim), chunk(chunk), storage(storage) {}

  /// keys, values [tokens, heads * headDim]. Writing a position again replaces it.
  void append(View keys, View values, Indices positions, Indices sequences);

  /// The first position that a query at `position` sees; `position` itself is the last.
  int64_t firstVisible(int64_t position) const { return chunk ? position / chunk * chunk : 0; }

  /// One more than the last position that was written.
  int64_t length(int32_t sequence) const;

  /// The key or the value of one head [headDim], at a position below `length`.
  View key(int32_t sequence, int64_t position, int64_t head) const;
  View value(int32_t sequence, int64_t position, int64_t head) const;

  const int64_t heads, headDim, chunk;
  const Storage storage;

private:
  struct Sequence {
    Values keys, values; // [positions, heads * headDim]
  };
  std::map<int32_t, Sequence> sequencesById;
};

/// queries [tokens, queryHeads * headDim] -> the same shape. The tokens are in the cache already.
Values attention(const KvCache &cache, View queries, Indices positions, Indices sequences,
                 Rounding rounding = Rounding::None);

/// silu(gate) * up, all of one shape.
Values swiglu(View gate, View up, Rounding rounding = Rounding::None);

Values add(View a, View b, Rounding rounding = Rounding::None);

/// The experts of each token, the best first, and their scores, both [tokens, k].
struct Routing {
  std::vector<int32_t> experts;
  Values scores;
};

/// logits [tokens, experts].
Routing route(View logits, int64_t experts, int64_t k, Rounding rounding = Rounding::None);

/// x [tokens, channels], chosen and scores [tokens, k], gate and up [experts, width, channels],
/// down [experts, channels, width] -> [tokens, channels].
Values experts(View x, Indices chosen, View scores, View gate, View up, View down, int64_t channels,
               int64_t width, Rounding rounding = Rounding::None);

/// x [tokens, channels], rows [wanted] -> [wanted, channels].
Values selectRows(View x, Indices rows, int64_t channels);

//===----------------------------------------------------------------------===//
// Fused: whole blocks, by composition of the above
//===----------------------------------------------------------------------===//

/// x [tokens, channels], norm [channels], weight [outputs, channels] -> [tokens, outputs].
Values qkv(View x, View norm, View weight, float eps, Rounding rounding = Rounding::None);

struct Temperature {
  float scale, floor;
};

/// What a layer does with its queries and keys. An empty `ropeTable` means no RoPE.
struct AttentionOptions {
  View ropeTable; // [tokens, headDim]
  std::optional<float> qkNormEps;
  std::optional<Temperature> temperature;
};

/// qkv [tokens, (queryHeads + 2 heads) * headDim] -> [tokens, queryHeads * headDim].
Values attentionBlock(KvCache &cache, View qkv, Indices positions, Indices sequences,
                      const AttentionOptions &options, Rounding rounding = Rounding::None);

/// x [tokens, inputs], weight [channels, inputs], residual [tokens, channels] -> as residual.
Values linearResidual(View x, View weight, View residual, int64_t inputs,
                      Rounding rounding = Rounding::None);

/// x [tokens, channels], norm [channels], router [experts, channels]; of the shared expert
/// sharedGateUp [2 width, channels], sharedDown [channels, width]; of the routed experts
/// gateUp [experts, 2 width, channels], down [experts, channels, width] -> as x.
Values moeBlock(View x, View norm, View router, View sharedGateUp, View gateUp, View sharedDown,
                View down, int64_t k, float eps, Rounding rounding = Rounding::None);

/// x [tokens, channels], norm [channels], gateUp [2 width, channels], down [channels, width].
Values mlpBlock(View x, View norm, View gateUp, View down, float eps,
                Rounding rounding = Rounding::None);

/// x [tokens, channels], rows [wanted], norm [channels], weight [vocabulary, channels]
/// -> [wanted, vocabulary].
Values head(View x, Indices rows, View norm, View weight, float eps,
            Rounding rounding = Rounding::None);

/// x [tokens, channels], rows [wanted], norm [channels] -> [wanted, channels].
Values finalNorm(View x, Indices rows, View norm, float eps, Rounding rounding = Rounding::None);

} // namespace moe::reference

#endif
