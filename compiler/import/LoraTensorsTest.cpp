// Adapters merge to what PEFT makes of them, and those that do not fit are refused.
#include "compiler/import/LoraTensors.h"
#include "compiler/import/QuantizedTensors.h"
#include "compiler/import/Safetensors.h"
#include "compiler/import/TestTensors.h"

#include <cmath>
#include <filesystem>
#include <random>

using namespace moe;
using namespace moe::test;
namespace json = llvm::json;

namespace {

const std::string kData = MOE_SOURCE_DIR "/compiler/import/testdata/lora/";

std::unique_ptr<TensorSource> openFile(const std::string &path) {
  auto file = Checkpoint::open(path);
  if (!file) {
    ADD_FAILURE() << llvm::toString(file.takeError());
    return nullptr;
  }
  return std::make_unique<Checkpoint>(std::move(*file));
}

std::unique_ptr<TensorSource> merged(std::unique_ptr<TensorSource> base,
                                     const std::string &folder) {
  std::vector<std::string> notes;
  auto result = LoraTensors::open(std::move(base), folder, notes);
  if (!result) {
    ADD_FAILURE() << llvm::toString(result.takeError());
    return nullptr;
  }
  return std::move(*result);
}

std::vector<TestTensor> tensorsOf(const TensorSource &source) {
  std::vector<TestTensor> tensors;
  for (const TensorInfo &info : source.tensors())
    tensors.push_back({info.name, "F32", info.shape, readAll(source, info.name)});
  return tensors;
}

// Elements are sums of a handful of products of numbers around 1.
void expectNear(const std::vector<float> &found, const std::vector<float> &expected,
                const std::string &name) {
  ASSERT_EQ(found.size(), expected.size()) << name;
  for (size_t i = 0; i < found.size(); ++i)
    ASSERT_NEAR(found[i], expected[i], 1e-5) << name << " " << i;
}

// A small adapter for a linear [6, 4], and one that can be made wrong.
struct Adapter {
  Adapter() {
    tensors = {{"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
                "F32",
                {2, 4},
                {1, 2, 3, 4, 5, 6, 7, 8}},
               {"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
                "F32",
                {6, 2},
                {1, 0, 0, 1, 1, 1, 2, 0, 0, 2, -1, 1}}};
  }
  llvm::Expected<std::unique_ptr<TensorSource>> open() {
    folder.write("adapter_config.json", config);
    folder.write("adapter_model.safetensors", safetensors(tensors));
    return LoraTensors::open(std::make_unique<MemoryTensors>(base), folder.str(), notes);
  }
  std::string problem() { return messageOf(open()); }

  TempFolder folder;
  std::string config = R"({"peft_type":"LORA","r":2,"lora_alpha":4})";
  std::vector<TestTensor> base{{"language_model.model.layers.0.self_attn.q_proj.weight",
                                "F32",
                                {6, 4},
                                std::vector<float>(24, 10)},
                               {"language_model.model.norm.weight", "F32", {4}, {1, 2, 3, 4}}};
  std::vector<TestTensor> tensors;
  std::vector<std::string> notes;
};

} // namespace

TEST(LoraTensors, MergesAsPeft) {
  std::mt19937 random(1);
  for (const char *name : {"linears", "rslora", "experts"}) {
    auto expected = openFile(kData + name + "/merged.safetensors");
    auto source = merged(openFile(kData + "base.safetensors"), kData + name);
    auto base = openFile(kData + "base.safetensors");
    ASSERT_TRUE(expected && source && base);
    ASSERT_EQ(source->tensors().size(), base->tensors().size());
    for (const TensorInfo &tensor : source->tensors()) {
      const TensorInfo *changed = expected->find(tensor.name);
      std::vector<float> whole = readAll(*source, tensor.name);
      if (!changed) {
        EXPECT_EQ(whole, readAll(*base, tensor.name));
        EXPECT_TRUE(source->data(tensor));
        continue;
      }
      EXPECT_FALSE(source->data(tensor));
      expectNear(whole, readAll(*expected, tensor.name), std::string(name) + " " + tensor.name);
      for (int round = 0; round < 20; ++round) { // any range gives the same bits
        size_t begin = random() % whole.size(), count = 1 + random() % (whole.size() - begin);
        std::vector<float> part(count);
        ASSERT_EQ(messageOf(source->read(tensor.name, begin, part)), "success");
        ASSERT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + int64_t(begin)));
      }
    }
  }
}

// Of a multimodal base, one after the other, and of experts of fused tensors one by one.
TEST(LoraTensors, MergesIntoOtherForms) {
  auto base = openFile(kData + "base.safetensors");
  std::vector<TestTensor> tensors = tensorsOf(*base);
  for (TestTensor &tensor : tensors)
    tensor.name = "language_model." + tensor.name;
  auto source = merged(std::make_unique<MemoryTensors>(tensors), kData + "linears");
  ASSERT_TRUE(source);
  auto expected = openFile(kData + "linears/merged.safetensors");
  for (const TensorInfo &tensor : expected->tensors())
    expectNear(readAll(*source, "language_model." + tensor.name), readAll(*expected, tensor.name),
               tensor.name);

  source = merged(std::move(source), kData + "rslora");
  ASSERT_TRUE(source);
  auto second = openFile(kData + "rslora/merged.safetensors");
  std::string name = "model.layers.1.self_attn.o_proj.weight";
  std::vector<float> both = readAll(*expected, name), plain = readAll(*base, name),
                     other = readAll(*second, name);
  for (size_t i = 0; i < both.size(); ++i)
    both[i] += other[i] - plain[i];
  expectNear(readAll(*source, "language_model." + name), both, name);

  TempFolder folder;
  folder.write("adapter_config.json", R"({"peft_type":"LORA","r":1,"lora_alpha":3})");
  std::vector<float> a(16), b(10);
  for (size_t i = 0; i < a.size(); ++i)
    a[i] = float(i) - 5;
  for (size_t i = 0; i < b.size(); ++i)
    b[i] = float(i % 3) + 1;
  std::string at = "base_model.model.model.layers.1.feed_forward.experts.";
  folder.write(
      "adapter_model.safetensors",
      safetensors(std::vector<TestTensor>{{at + "2.up_proj.lora_A.weight", "F32", {1, 16}, a},
                                          {at + "2.up_proj.lora_B.weight", "F32", {10, 1}, b},
                                          {at + "down_projs.0.lora_A.weight", "F32", {1, 10}, b},
                                          {at + "down_projs.0.lora_B.weight", "F32", {16, 1}, a}}));
  name = "model.layers.1.feed_forward.experts.gate_up_proj"; // [3, 16, 20]
  source = merged(openFile(kData + "base.safetensors"), folder.str());
  ASSERT_TRUE(source);
  std::vector<float> gateUp = readAll(*base, name);
  for (size_t in = 0; in < 16; ++in)
    for (size_t out = 0; out < 10; ++out)
      gateUp[(2 * 16 + in) * 20 + 10 + out] += 3 * b[out] * a[in];
  expectNear(readAll(*source, name), gateUp, name);
  name = "model.layers.1.feed_forward.experts.down_proj"; // [3, 10, 16]
  std::vector<float> down = readAll(*base, name);
  for (size_t in = 0; in < 10; ++in)
    for (size_t out = 0; out < 16; ++out)
      down[in * 16 + out] += 3 * a[out] * b[in];
  expectNear(readAll(*source, name), down, name);
}

TEST(LoraTensors, MergedTensorsHaveNoEncoding) {
  auto file = openFile(MOE_SOURCE_DIR "/compiler/import/testdata/w4a16.safetensors");
  QuantizationConfig config;
  config.name = "compressed-tensors";
  auto quantized = QuantizedTensors::open(std::move(file), config, Storage::BF16);
  ASSERT_TRUE(bool(quantized)) << llvm::toString(quantized.takeError());
  std::vector<float> before = readAll(**quantized, "x.weight"); // [16, 64]
  std::vector<float> expected = before;
  TempFolder folder;
  folder.write("adapter_config.json", R"({"peft_type":"LORA","r":1,"lora_alpha":1})");
  std::vector<float> a(64, 0.5f), b(16, 2);
  for (float &value : expected)
    value += 1;
  folder.write("adapter_model.safetensors",
               safetensors(std::vector<TestTensor>{
                   {"base_model.model.x.lora_A.weight", "F32", {1, 64}, a},
                   {"base_model.model.x.lora_B.weight", "F32", {16, 1}, b}}));
  auto source = merged(std::move(*quantized), folder.str());
  ASSERT_TRUE(source);
  EXPECT_FALSE(source->find("x.weight")->encoding);
  EXPECT_FALSE(source->find("x.weight:scale"));
  expectNear(readAll(*source, "x.weight"), expected, "x.weight");
}

TEST(LoraTensors, AddsScaledProducts) {
  Adapter adapter;
  auto source = adapter.open();
  ASSERT_TRUE(bool(source)) << llvm::toString(source.takeError());
  // 10 + 4 / 2 * B * A; row 2 is the sum of A's rows, row 5 their difference.
  std::vector<float> values =
      readAll(**source, "language_model.model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(std::vector<float>(values.begin(), values.begin() + 4),
            (std::vector<float>{12, 14, 16, 18}));
  EXPECT_EQ(std::vector<float>(values.begin() + 8, values.begin() + 12),
            (std::vector<float>{22, 26, 30, 34}));
  EXPECT_EQ(std::vector<float>(values.begin() + 20, values.end()),
            (std::vector<float>{18, 18, 18, 18}));
  EXPECT_TRUE(adapter.notes.empty());
}

TEST(LoraTensors, NotesTheVisionTower) {
  Adapter adapter;
  adapter.tensors.push_back(
      {"base_model.model.vision_model.model.layers.0.self_attn.q_proj.lora_A.weight",
       "F32",
       {2, 3},
       std::vector<float>(6)});
  EXPECT_EQ(adapter.problem(), "success");
  ASSERT_EQ(adapter.notes.size(), 1u);
  EXPECT_TRUE(
      contains(adapter.notes[0], "that belong to the vision tower: base_model.model.vision"));
}

TEST(LoraTensors, MergesIntoTheVisionTower) {
  Adapter adapter;
  for (std::string prefix : {"vision_model.", "model.vision_model."}) {
    const std::string at = prefix + "model.layers.0.self_attn.q_proj.";
    adapter.base.push_back({at + "weight", "F32", {2, 3}, {1, 1, 1, 1, 1, 1}});
    adapter.tensors.push_back(
        {"base_model.model." + at + "lora_A.weight", "F32", {2, 3}, {1, 2, 3, 0, 0, 1}});
    adapter.tensors.push_back(
        {"base_model.model." + at + "lora_B.weight", "F32", {2, 2}, {1, 0, 0, 1}});
    auto source = adapter.open();
    ASSERT_TRUE(bool(source)) << llvm::toString(source.takeError());
    EXPECT_TRUE(adapter.notes.empty());
    EXPECT_EQ(readAll(**source, at + "weight"), (std::vector<float>{3, 5, 7, 1, 1, 3}));
    adapter.base.pop_back();
    adapter.tensors.resize(2);
  }
}

TEST(LoraTensors, RefusesAdaptersThatDoNotFit) {
  std::string at = "base_model.model.model.layers.0.self_attn.";
  {
    Adapter adapter;
    adapter.tensors.pop_back();
    EXPECT_TRUE(contains(adapter.problem(),
                         "does not fit the checkpoint, 1 problem: module "
                         "model.layers.0.self_attn.q_proj has lora_A and no lora_B"));
  }
  {
    Adapter adapter;
    adapter.tensors[0].name = at + "x_proj.lora_A.weight";
    adapter.tensors[1].name = at + "x_proj.lora_B.weight";
    EXPECT_TRUE(contains(adapter.problem(),
                         "module model.layers.0.self_attn.x_proj has no weight in the checkpoint"));
  }
  {
    Adapter adapter;
    adapter.tensors[0].shape = {4, 2};
    EXPECT_TRUE(contains(adapter.problem(), "q_proj.weight [6, 4], expected [r, 4] and [6, r]"));
  }
  {
    Adapter adapter;
    adapter.config = R"({"peft_type":"LORA","r":8,"lora_alpha":4})";
    EXPECT_TRUE(contains(adapter.problem(), "has the rank 2, expected 8 as adapter_config.json"));
  }
  {
    Adapter adapter;
    adapter.tensors.push_back(
        {at + "q_proj.lora_magnitude_vector", "F32", {6}, std::vector<float>(6)});
    EXPECT_TRUE(contains(adapter.problem(),
                         "no matrices of LoRA: " + at + "q_proj.lora_magnitude_vector [6]"));
  }
  {
    Adapter adapter;
    adapter.tensors.clear();
    EXPECT_TRUE(contains(adapter.problem(), "it has no matrices for the text model"));
  }
  {
    Adapter adapter; // of experts, but there are none
    adapter.config = R"({"peft_type":"LORA","r":2,"lora_alpha":4,
                         "target_parameters":["feed_forward.experts.down_proj"]})";
    adapter.tensors[0].name = "base_model.model.model.layers.0.feed_forward.experts.lora_A.weight";
    adapter.tensors[1].name = "base_model.model.model.layers.0.feed_forward.experts.lora_B.weight";
    EXPECT_TRUE(
        contains(adapter.problem(), "fit no tensor [experts, in, out] of target_parameters"));
  }
}

TEST(LoraTensors, RefusesWhatItCannotMerge) {
  struct {
    const char *more, *problem;
  } bad[] = {{R"("use_dora":true)", "has use_dora, which is not supported: merge the adapter"},
             {R"("fan_in_fan_out":true)", "has fan_in_fan_out"},
             {R"("lora_bias":true)", "has lora_bias"},
             {R"("bias":"all")", "has the bias all, expected none"},
             {R"("modules_to_save":["lm_head"])", "has modules_to_save, which is not supported"},
             {R"("layer_replication":[[0,1]])", "has layer_replication"},
             {R"("init_lora_weights":"pissa_niter_4")", "has the init_lora_weights pissa_niter_4"}};
  for (auto [more, problem] : bad) {
    Adapter adapter;
    adapter.config.insert(adapter.config.size() - 1, std::string(",") + more);
    EXPECT_TRUE(contains(adapter.problem(), problem));
  }
  Adapter adapter;
  adapter.config = R"({"peft_type":"IA3"})";
  EXPECT_TRUE(contains(adapter.problem(), "has the peft_type IA3, expected LORA"));
  adapter.config = R"({"peft_type":"LORA","r":0,"lora_alpha":4})";
  EXPECT_TRUE(contains(adapter.problem(), "has no rank r of 1 or more"));
  std::vector<std::string> notes;
  TempFolder empty;
  EXPECT_TRUE(contains(
      messageOf(LoraTensors::open(openFile(kData + "base.safetensors"), empty.str(), notes)),
      "has no adapter_config.json: give the folder of an adapter"));
}
