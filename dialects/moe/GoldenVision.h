// The checkpoint of the tiny model that sees, for tests. test/golden/vision/golden.json has its
// configuration, and what transformers computes with it.
#ifndef MOE_DIALECTS_MOE_GOLDENVISION_H
#define MOE_DIALECTS_MOE_GOLDENVISION_H

#include "dialects/moe/GoldenModel.h"

#include <cmath>

namespace moe::golden::vision {

inline constexpr int64_t kLayers = 4, kHidden = 64, kQueryHeads = 4, kHeads = 2, kHeadDim = 16,
                         kWidth = 32, kExperts = 4, kVocabulary = 320;
// Of the tower.
inline constexpr int64_t kTowerLayers = 3, kTowerHidden = 64, kTowerHeads = 4, kMlpWidth = 256,
                         kAdapterWidth = 48, kTile = 56, kPatch = 14, kGrid = kTile / kPatch,
                         kRowsPerTile = kGrid * kGrid / 4;
inline constexpr float kTowerTheta = 10000;

inline std::map<std::string, std::vector<int64_t>> shapes() {
  std::map<std::string, std::vector<int64_t>> result;
  std::string at = "language_model.model.";
  result[at + "embed_tokens.weight"] = {kVocabulary, kHidden};
  result[at + "norm.weight"] = {kHidden};
  result["language_model.lm_head.weight"] = {kVocabulary, kHidden};
  for (int64_t i = 0; i < kLayers; ++i) {
    const std::string layer = at + "layers." + std::to_string(i) + ".",
                      mlp = layer + "feed_forward.";
    result[layer + "input_layernorm.weight"] = {kHidden};
    result[layer + "post_attention_layernorm.weight"] = {kHidden};
    result[layer + "self_attn.q_proj.weight"] = {kQueryHeads * kHeadDim, kHidden};
    result[layer + "self_attn.k_proj.weight"] = {kHeads * kHeadDim, kHidden};
    result[layer + "self_attn.v_proj.weight"] = {kHeads * kHeadDim, kHidden};
    result[layer + "self_attn.o_proj.weight"] = {kHidden, kQueryHeads * kHeadDim};
    result[mlp + "router.weight"] = {kExperts, kHidden};
    result[mlp + "experts.gate_up_proj"] = {kExperts, kHidden, 2 * kWidth};
    result[mlp + "experts.down_proj"] = {kExperts, kWidth, kHidden};
    result[mlp + "shared_expert.gate_proj.weight"] = {kWidth, kHidden};
    result[mlp + "shared_expert.up_proj.weight"] = {kWidth, kHidden};
    result[mlp + "shared_expert.down_proj.weight"] = {kHidden, kWidth};
  }
  const int64_t c = kTowerHidden;
  auto linear = [&](const std::string &name, int64_t outputs, int64_t inputs) {
    result[name + ".weight"] = {outputs, inputs};
    result[name + ".bias"] = {outputs};
  };
  auto norm = [&](const std::string &name) {
    result[name + ".weight"] = {c};
    result[name + ".bias"] = {c};
  };
  at = "vision_model.";
  result[at + "class_embedding"] = {c};
  result[at + "positional_embedding_vlm"] = {kGrid * kGrid + 1, c};
  result[at + "patch_embedding.linear.weight"] = {c, 3 * kPatch * kPatch};
  result[at + "vision_adapter.mlp.fc1.weight"] = {kAdapterWidth, kMlpWidth};
  result[at + "vision_adapter.mlp.fc2.weight"] = {kAdapterWidth, kAdapterWidth};
  result["multi_modal_projector.linear_1.weight"] = {kHidden, kAdapterWidth};
  norm(at + "layernorm_pre");
  norm(at + "layernorm_post");
  for (int64_t i = 0; i < kTowerLayers; ++i) {
    const std::string layer = at + "model.layers." + std::to_string(i) + ".";
    norm(layer + "input_layernorm");
    norm(layer + "post_attention_layernorm");
    for (const char *which : {"q", "k", "v", "o"})
      linear(layer + "self_attn." + which + "_proj", c, c);
    linear(layer + "mlp.fc1", kMlpWidth, c);
    linear(layer + "mlp.fc2", c, kMlpWidth);
  }
  return result;
}

/// The checkpoint, by the names that Hugging Face gives its tensors: tensor 5001 is the first by
/// name. Element i is offset + scale * element(number, i), of which offset is 1 for norms.
inline std::map<std::string, Tensor> checkpoint() {
  std::map<std::string, Tensor> result;
  uint64_t number = 5001;
  for (auto &[name, shape] : shapes()) {
    auto is = [&](const char *end) { return name.ends_with(end); };
    double scale = 1, offset = 0;
    if (is(".bias")) {
      scale = 0.5;
    } else if (name.find("norm") != std::string::npos) {
      scale = 0.5;
      offset = 1;
    } else if (is("embed_tokens.weight")) {
      scale = 2;
    } else if (!is("class_embedding") && !is("positional_embedding_vlm")) {
      // Fused experts have their inputs before their outputs.
      const bool experts = name.find(".experts.") != std::string::npos;
      scale = 4 / std::sqrt(double(shape[shape.size() - (experts ? 2 : 1)]));
    }
    Tensor &tensor = result[name];
    tensor.shape = shape;
    int64_t size = 1;
    for (int64_t dim : shape)
      size *= dim;
    for (int64_t i = 0; i < size; ++i)
      tensor.values.push_back(float(offset + scale * element(number, uint64_t(i))));
    ++number;
  }
  return result;
}

} // namespace moe::golden::vision

#endif
