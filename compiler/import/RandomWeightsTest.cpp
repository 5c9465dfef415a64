// Made-up weights against values that another program computed.
#include "compiler/import/RandomWeights.h"
#include "compiler/import/Safetensors.h"
#include "compiler/import/TestTensors.h"

#include <cmath>

using namespace moe;
using namespace moe::test;

static Llama4Config scout(Storage dtype) {
  std::vector<std::string> warnings;
  auto config = Llama4Config::open(MOE_SOURCE_DIR "/models/configs/scout", warnings);
  EXPECT_TRUE(bool(config));
  config->dtype = dtype;
  return std::move(*config);
}

static float read(const TensorSource &source, llvm::StringRef name, uint64_t index) {
  float value = NAN;
  EXPECT_EQ(messageOf(source.read(name, index, {&value, 1})), "success");
  return value;
}

// Fifty lines of Python, from the formula in the header.
TEST(RandomWeights, FollowTheFormula) {
  struct {
    llvm::StringRef name;
    uint64_t index;
    float exact, bf16;
  } expected[] = {
      {"model.norm.weight", 0, 0x1.95149ep-1f, 0.79296875f},
      {"model.norm.weight", 1, 0x1.15cb0ep+0f, 1.0859375f},
      {"model.norm.weight", 2, 0x1.a705b8p-1f, 0.828125f},
      {"model.embed_tokens.weight", 0, 0x1.a0ce8p-1f, 0.8125f},
      {"model.embed_tokens.weight", 1, -0x1.211bep-2f, -0.283203125f},
      {"model.embed_tokens.weight", 1034485759, 0x1.4a5ce8p-1f, 0.64453125f},
      {"lm_head.weight", 0, 0x1.ca794ep-9f, 0.0034942626953125f},
      {"lm_head.weight", 1, 0x1.be142p-8f, 0.006805419921875f},
      {"model.layers.3.self_attn.k_proj.weight", 1000000, 0x1.3947p-6f, 0.0191650390625f},
      {"model.layers.3.feed_forward.experts.gate_up_proj", 0, -0x1.96ae5ep-7f, -0.01239013671875f},
      {"model.layers.3.feed_forward.experts.gate_up_proj", 1342177279, -0x1.fef374p-7f,
       -0.01556396484375f},
      {"model.layers.3.feed_forward.experts.down_proj", 1, 0x1.5b2308p-7f, 0.0106201171875f},
      {"model.layers.3.feed_forward.experts.down_proj", 671088639, 0x1.7ddeaep-7f,
       0.01165771484375f},
  };
  RandomWeights exact(scout(Storage::F32), 7), rounded(scout(Storage::BF16), 7);
  RandomWeights half(scout(Storage::F16), 7);
  for (const auto &[name, index, value, bf16] : expected) {
    EXPECT_EQ(read(exact, name, index), value) << name.str() << index;
    EXPECT_EQ(read(rounded, name, index), bf16) << name.str() << index;
    EXPECT_NEAR(read(half, name, index), value, std::abs(value) * 0x1p-11) << name.str() << index;
  }
  // Some of these are subnormal numbers in float16.
  std::vector<float> exacts(100000), halves(exacts.size());
  ASSERT_EQ(messageOf(exact.read("lm_head.weight", 0, exacts)), "success");
  ASSERT_EQ(messageOf(half.read("lm_head.weight", 0, halves)), "success");
  for (size_t i = 0; i < exacts.size(); ++i)
    ASSERT_EQ(f16Of(exacts[i]), f16Of(halves[i])) << i;
  std::vector<TestTensor> stored{{"w", "F16", {100000}, exacts}};
  TempFolder folder;
  auto file = Checkpoint::open(folder.write("a.safetensors", safetensors(stored)));
  ASSERT_TRUE(bool(file)) << llvm::toString(file.takeError());
  EXPECT_EQ(readAll(*file, "w"), halves);
  EXPECT_EQ(rounded.find("lm_head.weight")->dtypeName, "BF16");
}

// These seeds make the hash and the seed cancel, which leaves the tensor numbers 1 and 2 of the
// golden model, whose first values are known from elsewhere.
TEST(RandomWeights, AgreeWithTheGoldenModel) {
  RandomWeights first(scout(Storage::F32), 0xb762f107391af6bb);
  EXPECT_FLOAT_EQ(read(first, "model.embed_tokens.weight", 0), 0.9114076f);
  EXPECT_FLOAT_EQ(read(first, "model.embed_tokens.weight", 1), 0.4973657f);
  EXPECT_FLOAT_EQ(read(first, "model.embed_tokens.weight", 2), 0.6573775f);
  RandomWeights second(scout(Storage::F32), 0x5fc7161b7e9567ee);
  EXPECT_FLOAT_EQ(read(second, "model.layers.0.input_layernorm.weight", 0), 0.94078445f);
  EXPECT_FLOAT_EQ(read(second, "model.layers.0.input_layernorm.weight", 1), 0.7968755f);
}

// A range is what its elements are one by one, so all vector lengths and their remainders agree.
TEST(RandomWeights, AreTheSameInAnyRange) {
  for (Storage dtype : {Storage::F32, Storage::F16, Storage::BF16}) {
    RandomWeights weights(scout(dtype), 1);
    std::vector<float> all(9000);
    ASSERT_EQ(messageOf(weights.read("lm_head.weight", 77, all)), "success");
    for (size_t i = 0; i < all.size(); ++i)
      ASSERT_EQ(all[i], read(weights, "lm_head.weight", 77 + i)) << i;
  }
}

TEST(RandomWeights, KeepTheVariance) {
  RandomWeights weights(scout(Storage::BF16), 3);
  std::vector<float> values(1 << 20);
  ASSERT_EQ(messageOf(weights.read("model.layers.0.self_attn.q_proj.weight", 0, values)),
            "success");
  double sum = 0, squares = 0;
  for (float value : values) {
    sum += value;
    squares += double(value) * value;
  }
  EXPECT_NEAR(sum / values.size() * std::sqrt(5120.0), 0, 0.005);
  EXPECT_NEAR(squares / values.size() * 5120, 1, 0.005);
}
