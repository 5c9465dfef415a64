// Makes up weights, more than one per nanosecond.
#include "compiler/import/RandomWeights.h"

#include <cmath>

using namespace moe;

RandomWeights::RandomWeights(const Llama4Config &config, uint64_t seed) : seed(seed) {
  const std::string dtype = llvm::StringRef(nameOf(config.dtype)).upper();
  auto tensor = [&](const llvm::Twine &name, std::vector<int64_t> shape) {
    TensorInfo info;
    info.name = name.str();
    info.dtype = config.dtype;
    info.dtypeName = dtype;
    info.shape = std::move(shape);
    add(std::move(info));
  };
  int64_t d = config.hiddenSize, q = config.heads * config.headDim,
          kv = config.kvHeads * config.headDim;
  auto mlp = [&](const std::string &at, int64_t width) {
    tensor(at + "gate_proj.weight", {width, d});
    tensor(at + "up_proj.weight", {width, d});
    tensor(at + "down_proj.weight", {d, width});
  };

  tensor("model.embed_tokens.weight", {config.vocabSize, d});
  for (int64_t i = 0; i < config.layers; ++i) {
    std::string layer = "model.layers." + std::to_string(i) + ".";
    tensor(layer + "input_layernorm.weight", {d});
    tensor(layer + "self_attn.q_proj.weight", {q, d});
    tensor(layer + "self_attn.k_proj.weight", {kv, d});
    tensor(layer + "self_attn.v_proj.weight", {kv, d});
    tensor(layer + "self_attn.o_proj.weight", {d, q});
    tensor(layer + "post_attention_layernorm.weight", {d});
    if (!config.isMoe(i)) {
      mlp(layer + "feed_forward.", config.denseWidth);
      continue;
    }
    tensor(layer + "feed_forward.router.weight", {config.experts, d});
    tensor(layer + "feed_forward.experts.gate_up_proj",
           {config.experts, d, 2 * config.expertWidth});
    tensor(layer + "feed_forward.experts.down_proj", {config.experts, config.expertWidth, d});
    mlp(layer + "feed_forward.shared_expert.", config.expertWidth);
  }
  tensor("model.norm.weight", {d});
  if (!config.tiedEmbeddings)
    tensor("lm_head.weight", {config.vocabSize, d});
  if (!config.vision)
    return;

  const VisionConfig &vision = *config.vision;
  const int64_t c = vision.hiddenSize, patches = vision.grid() * vision.grid();
  auto linear = [&](const std::string &at, int64_t outputs, int64_t inputs) {
    tensor(at + ".weight", {outputs, inputs});
    tensor(at + ".bias", {outputs});
  };
  auto norm = [&](const std::string &at) {
    tensor(at + ".weight", {c});
    tensor(at + ".bias", {c});
  };
  tensor("vision_model.class_embedding", {c});
  tensor("vision_model.positional_embedding_vlm", {patches + 1, c});
  tensor("vision_model.patch_embedding.linear.weight",
         {c, 3 * vision.patchSize * vision.patchSize});
  norm("vision_model.layernorm_pre");
  for (int64_t i = 0; i < vision.layers; ++i) {
    std::string layer = "vision_model.model.layers." + std::to_string(i) + ".";
    norm(layer + "input_layernorm");
    for (const char *which : {"q", "k", "v", "o"})
      linear(layer + "self_attn." + which + "_proj", c, c);
    norm(layer + "post_attention_layernorm");
    linear(layer + "mlp.fc1", vision.mlpWidth, c);
    linear(layer + "mlp.fc2", c, vision.mlpWidth);
  }
  norm("vision_model.layernorm_post");
  tensor("vision_model.vision_adapter.mlp.fc1.weight", {vision.adapterWidth, vision.mlpWidth});
  tensor("vision_model.vision_adapter.mlp.fc2.weight", {vision.adapterWidth, vision.adapterWidth});
  tensor("multi_modal_projector.linear_1.weight", {d, vision.adapterWidth});
}

//===----------------------------------------------------------------------===//
// The generator
//===----------------------------------------------------------------------===//

namespace {

struct Generator {
  uint64_t start; // z before the mixing, of element 0
  double offset, scale;
};

} // namespace

// Half the time is in the 64-bit products, which AVX-512 has an instruction for: the same code is
// compiled for it too. A fused multiply-add would round differently, and is forbidden.
[[gnu::always_inline]] static inline void generate(const Generator &generator, uint64_t begin,
                                                   uint64_t count, float *out) {
#pragma clang fp contract(off)
  for (uint64_t i = 0; i < count; ++i) {
    uint64_t z = generator.start + (begin + i) * 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    z = z ^ z >> 31;
    double u = double(int32_t(z >> 40)) * 0x1p-24 - 0.5; // exact
    double product = generator.scale * u;
    out[i] = float(generator.offset + product);
  }
}

static void generatePortable(const Generator &generator, uint64_t begin, uint64_t count,
                             float *out) {
  generate(generator, begin, count, out);
}

#if defined(__x86_64__)
[[gnu::target("avx512f,avx512dq,avx512vl,prefer-256-bit")]]
static void generateAvx512(const Generator &generator, uint64_t begin, uint64_t count, float *out) {
  generate(generator, begin, count, out);
}
#endif

static void (*const bestGenerator)(const Generator &, uint64_t, uint64_t, float *) = [] {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return generateAvx512;
#endif
  return generatePortable;
}();

static uint64_t hashName(llvm::StringRef name) {
  uint64_t hash = 0xCBF29CE484222325;
  for (unsigned char c : name)
    hash = (hash ^ c) * 0x100000001B3;
  return hash;
}

Status RandomWeights::readElements(const TensorInfo &tensor, uint64_t begin,
                                   std::span<float> out) const {
  llvm::StringRef name = tensor.name;
  uint64_t number = hashName(name) ^ seed * 0x9E3779B97F4A7C15;
  Generator generator{number * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15, 0, 0};
  if (name.ends_with(".bias"))
    generator.scale = 0.5;
  else if (name == "vision_model.class_embedding" ||
           name == "vision_model.positional_embedding_vlm")
    generator.scale = 1;
  else if (tensor.shape.size() == 1)
    generator.offset = 1, generator.scale = 0.5;
  else if (name == "model.embed_tokens.weight")
    generator.scale = 2;
  else // linears are [outputs, inputs], fused experts [experts, inputs, outputs]
    generator.scale = 2 * std::sqrt(3 / double(tensor.shape[1]));

  // A piece at a time, so that rounding finds the values in the nearest cache.
  constexpr uint64_t piece = 4096;
  for (uint64_t done = 0; done < out.size(); done += piece) {
    uint64_t length = std::min<uint64_t>(piece, out.size() - done);
    float *values = out.data() + done;
    bestGenerator(generator, begin + done, length, values);
    if (tensor.dtype == Storage::BF16)
      for (uint64_t i = 0; i < length; ++i)
        values[i] = floatOfBf16(bf16Of(values[i]));
    else if (tensor.dtype == Storage::F16)
      for (uint64_t i = 0; i < length; ++i)
        values[i] = floatOfF16(f16Of(values[i]));
  }
  return ok();
}
