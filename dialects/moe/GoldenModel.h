// Two tiny Llama 4 models for tests, with weights that a formula gives and results that Meta's
// reference code confirmed to 3e-6 in float32. A is like Scout (experts in every layer, QK norm,
// scaled RoPE), B is like Maverick (experts in every second layer, neither of the two).
//
// 20 tokens make two and a half attention chunks; layer 3 attends to all of them.
#ifndef MOE_DIALECTS_MOE_GOLDENMODEL_H
#define MOE_DIALECTS_MOE_GOLDENMODEL_H

#include "dialects/moe/MoeReference.h"

#include <map>
#include <string>

namespace moe::golden {

inline constexpr int64_t kLayers = 4, kHidden = 64, kQueryHeads = 4, kHeads = 2, kHeadDim = 16,
                         kWidth = 32, kDenseWidth = 64, kExperts = 4, kVocabulary = 96, kChunk = 8;
inline constexpr float kEps = 1e-5f, kTheta = 500000, kTemperatureScale = 0.1f,
                       kTemperatureFloor = 8;

/// A row of the results.
struct LogitsRow {
  int64_t position;
  std::vector<float> first; // logits[0:4]
  int64_t argmax;
  float largest;
};

struct Model {
  std::string name;
  int64_t moeStep; // layer i has experts where (i + 1) % moeStep == 0
  bool qkNorm;
  std::optional<reference::RopeScaling> ropeScaling;

  /// After each layer, the first three channels of tokens 8 and 19.
  std::vector<std::vector<float>> hidden8, hidden19;
  /// Of each layer, the expert of each token; none for a dense layer.
  std::vector<std::vector<int32_t>> experts;
  std::vector<LogitsRow> logits;
  double logitsSum, logitsSquares;

  bool hasExperts(int64_t layer) const { return (layer + 1) % moeStep == 0; }
  static bool hasRope(int64_t layer) { return layer != 3; }
};

inline Model scoutLike() {
  return {.name = "A",
          .moeStep = 1,
          .qkNorm = true,
          .ropeScaling = reference::RopeScaling{16, 1, 1, 8192},
          .hidden8 = {{-0.59098f, -0.29912f, 2.1096f},
                      {-0.82922f, -1.25121f, 5.09004f},
                      {1.24441f, -2.29058f, 8.951f},
                      {2.52732f, -3.24245f, 9.57971f}},
          .hidden19 = {{0.91999f, -0.83937f, 0.49024f},
                       {0.61157f, 0.14231f, -1.39243f},
                       {0.50196f, -0.10441f, -0.59921f},
                       {0.13503f, 0.85553f, 0.57414f}},
          .experts = {{0, 1, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 1, 2, 3, 2, 3, 0, 0, 0},
                      {2, 2, 2, 2, 2, 2, 3, 2, 3, 0, 0, 2, 1, 2, 0, 2, 2, 2, 2, 1},
                      {0, 0, 0, 0, 2, 1, 2, 1, 3, 3, 3, 3, 0, 2, 3, 3, 0, 1, 3, 0},
                      {3, 3, 3, 2, 0, 1, 2, 3, 0, 1, 1, 1, 0, 0, 3, 3, 0, 0, 0, 0}},
          .logits = {{0, {-1.31992f, -1.79059f, -0.23897f, 1.87611f}, 70, 2.77586f},
                     {7, {1.02673f, -2.96038f, 0.96353f, 1.01668f}, 93, 2.50387f},
                     {8, {-0.44329f, -0.03136f, -1.46712f, 0.20378f}, 16, 2.55779f},
                     {16, {-2.62545f, -0.41098f, 0.72532f, 0.71492f}, 7, 2.32420f},
                     {19, {-2.19185f, -0.54205f, 1.12613f, 0.99282f}, 34, 2.52891f}},
          .logitsSum = -14.8017,
          .logitsSquares = 2528.8785};
}

inline Model maverickLike() {
  return {.name = "B",
          .moeStep = 2,
          .qkNorm = false,
          .ropeScaling = std::nullopt,
          .hidden8 = {{-1.37609f, -0.87181f, -1.48511f},
                      {-2.52734f, -1.04995f, 0.18164f},
                      {-2.2079f, -4.19646f, 1.13981f},
                      {-3.69599f, -3.28208f, 1.54597f}},
          .hidden19 = {{-0.139f, -1.70758f, -1.5119f},
                       {0.14177f, -1.24778f, -1.80232f},
                       {0.47f, 0.50335f, -2.05466f},
                       {1.69986f, 0.37485f, -2.92031f}},
          .experts = {{},
                      {1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 3, 3, 3, 3, 1, 1, 0, 0, 0, 0},
                      {},
                      {0, 0, 3, 3, 3, 3, 3, 3, 3, 2, 3, 2, 2, 3, 3, 3, 0, 0, 1, 1}},
          .logits = {{0, {2.51712f, 0.26303f, -1.06711f, 1.427f}, 44, 2.68678f},
                     {7, {1.42321f, 1.90827f, 1.33512f, -1.27775f}, 85, 2.96337f},
                     {8, {-1.50149f, -0.90816f, -0.04234f, -1.36267f}, 58, 3.24166f},
                     {16, {0.77323f, 0.41232f, 1.4365f, -2.9524f}, 33, 3.40095f},
                     {19, {1.10897f, 1.7356f, 1.04267f, -0.83385f}, 57, 3.66814f}},
          .logitsSum = 95.3095,
          .logitsSquares = 2770.5383};
}

inline std::vector<int32_t> tokens() {
  std::vector<int32_t> result;
  for (int32_t i = 0; i < 20; ++i)
    result.push_back((7 * i + 3) % int32_t(kVocabulary));
  return result;
}

/// Element `index` of tensor `number`, between -0.5 and 0.5.
inline double element(uint64_t number, uint64_t index) {
  uint64_t z = number * 0xD1342543DE82EF95u + (index + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return double(z >> 40) / double(1 << 24) - 0.5;
}

struct Tensor {
  std::vector<int64_t> shape;
  reference::Values values;
};

/// The checkpoint, by the names that Hugging Face gives its tensors.
inline std::map<std::string, Tensor> checkpoint(const Model &model) {
  std::map<std::string, Tensor> result;
  auto add = [&](const std::string &name, std::vector<int64_t> shape, double scale = 0.5,
                 double offset = 0) {
    int64_t size = 1;
    for (int64_t dim : shape)
      size *= dim;
    uint64_t number =
        result.size() + 1; // tensors are numbered from 1 in the order of this function
    Tensor &tensor = result[name];
    tensor.shape = std::move(shape);
    for (int64_t i = 0; i < size; ++i)
      tensor.values.push_back(float(offset + scale * element(number, uint64_t(i))));
  };
  auto addMlp = [&](const std::string &prefix, int64_t width) {
    add(prefix + "gate_proj.weight", {width, kHidden});
    add(prefix + "up_proj.weight", {width, kHidden});
    add(prefix + "down_proj.weight", {kHidden, width});
  };

  add("model.embed_tokens.weight", {kVocabulary, kHidden}, 2.0);
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    std::string prefix = "model.layers." + std::to_string(layer) + ".";
    add(prefix + "input_layernorm.weight", {kHidden}, 0.5, 1.0);
    add(prefix + "self_attn.q_proj.weight", {kQueryHeads * kHeadDim, kHidden});
    add(prefix + "self_attn.k_proj.weight", {kHeads * kHeadDim, kHidden});
    add(prefix + "self_attn.v_proj.weight", {kHeads * kHeadDim, kHidden});
    add(prefix + "self_attn.o_proj.weight", {kHidden, kQueryHeads * kHeadDim});
    add(prefix + "post_attention_layernorm.weight", {kHidden}, 0.5, 1.0);
    prefix += "feed_forward.";
    if (!model.hasExperts(layer)) {
      addMlp(prefix, kDenseWidth);
      continue;
    }
    add(prefix + "router.weight", {kExperts, kHidden});
    add(prefix + "experts.gate_up_proj", {kExperts, kHidden, 2 * kWidth});
    add(prefix + "experts.down_proj", {kExperts, kWidth, kHidden});
    addMlp(prefix + "shared_expert.", kWidth);
  }
  add("model.norm.weight", {kHidden}, 0.5, 1.0);
  add("lm_head.weight", {kVocabulary, kHidden});
  return result;
}

} // namespace moe::golden

#endif
