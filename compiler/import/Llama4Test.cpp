// From checkpoints to modules: the right weights, the right model, and nothing left over.
#include "compiler/import/Llama4.h"
#include "compiler/import/RandomWeights.h"
#include "compiler/import/Safetensors.h"
#include "compiler/import/TestTensors.h"
#include "dialects/moe/GoldenModel.h"
#include "dialects/moe/MoeInterpreter.h"
#include "dialects/moe/MoeOps.h"

#include <chrono>
#include <cmath>

using namespace moe;
using namespace moe::test;
using namespace mlir;

// Without pictures, of which Llama4VisionTest knows more.
static Llama4Config parseConfig(StringRef text) {
  std::vector<std::string> warnings;
  auto config = Llama4Config::parse(text, "config.json", warnings, /*vision=*/false);
  if (!config) {
    ADD_FAILURE() << llvm::toString(config.takeError());
    return {};
  }
  return std::move(*config);
}

// Two layers with and two without routing, of the smallest sizes that differ from each other.
static std::string smallConfig(bool multimodal = false, bool recent = false,
                               StringRef dtype = "bfloat16", StringRef more = "") {
  std::string text = R"("vocab_size":20,"hidden_size":12,"num_hidden_layers":4,
    "num_attention_heads":4,"num_key_value_heads":2,"head_dim":6,"intermediate_size":10,
    "intermediate_size_mlp":14,"num_local_experts":3,"interleave_moe_layer_step":2,
    "attention_chunk_size":8,)" +
                     more.str();
  text += recent ? R"("rope_parameters":{"rope_type":"default","rope_theta":100.0},"dtype":")"
                 : R"("rope_scaling":null,"rope_theta":100.0,"torch_dtype":")";
  text += dtype.str() + "\"";
  return multimodal ? R"({"architectures":["Llama4ForConditionalGeneration"],"model_type":"llama4",
                          "text_config":{)" +
                          text + R"(},"vision_config":{"hidden_size":8}})"
                    : R"({"architectures":["Llama4ForCausalLM"],)" + text + "}";
}

static std::vector<TestTensor> tensorsOf(const TensorSource &source) {
  std::vector<TestTensor> result;
  for (const TensorInfo &tensor : source.tensors())
    result.push_back({tensor.name, tensor.dtypeName, tensor.shape, readAll(source, tensor.name)});
  return result;
}

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

enum class ExpertStorage { Fused, Separate, Linearized, Stacked };

// The same checkpoint with its experts stored otherwise.
static std::vector<TestTensor> relaid(const std::vector<TestTensor> &tensors,
                                      ExpertStorage layout) {
  std::vector<TestTensor> result;
  for (const TestTensor &tensor : tensors) {
    StringRef at = tensor.name;
    bool down = at.consume_back("experts.down_proj");
    if ((!down && !at.consume_back("experts.gate_up_proj")) || layout == ExpertStorage::Fused) {
      result.push_back(tensor);
      continue;
    }
    int64_t experts = tensor.shape[0], inputs = tensor.shape[1], columns = tensor.shape[2];
    int64_t outputs = down ? columns : columns / 2;
    std::vector<std::string> parts = {"down"};
    if (!down)
      parts = {"gate", "up"};
    for (size_t part = 0; part < parts.size(); ++part) {
      std::vector<float> values; // [experts, outputs, inputs]
      for (int64_t e = 0; e < experts; ++e)
        for (int64_t o = 0; o < outputs; ++o)
          for (int64_t i = 0; i < inputs; ++i)
            values.push_back(
                tensor.values[(e * inputs + i) * columns + int64_t(part) * outputs + o]);
      if (layout == ExpertStorage::Stacked) {
        result.push_back({at.str() + "experts." + parts[part] + "_proj.weight",
                          tensor.dtype,
                          {experts, outputs, inputs},
                          values});
        continue;
      }
      for (int64_t e = 0; e < experts; ++e) {
        std::string number = std::to_string(e);
        result.push_back(
            {at.str() + "experts." +
                 (layout == ExpertStorage::Separate ? number + "." + parts[part] + "_proj.weight"
                                                    : parts[part] + "_projs." + number + ".weight"),
             tensor.dtype,
             {outputs, inputs},
             {values.begin() + e * outputs * inputs, values.begin() + (e + 1) * outputs * inputs}});
      }
    }
  }
  return result;
}

static std::map<std::string, std::vector<float>> weightsOf(ModuleOp module,
                                                           const TensorSource &source) {
  std::map<std::string, std::vector<float>> result;
  for (WeightOp weight : module.getOps<WeightOp>()) {
    std::vector<float> values(size_t(weight.getType().getNumElements()));
    EXPECT_TRUE(succeeded(gatherWeight(weight, source, values)));
    result[weight.getSymName().str()] = std::move(values);
  }
  return result;
}

TEST(Llama4, FindsWeightsInEachLayout) {
  MLIRContext context;
  for (StringRef dtype : {"bfloat16", "float16", "float32"}) {
    // What each weight should be, straight from the definition of the fused layout.
    Llama4Config config = parseConfig(smallConfig(false, false, dtype));
    RandomWeights random(config, 5);
    std::vector<TestTensor> original = tensorsOf(random);
    auto reference = importLlama4(context, config, random);
    ASSERT_TRUE(bool(reference)) << llvm::toString(reference.takeError());
    auto expected = weightsOf(*reference->module, random);
    std::vector<float> gateUp = readAll(random, "model.layers.1.feed_forward.experts.gate_up_proj");
    std::vector<float> down = readAll(random, "model.layers.1.feed_forward.experts.down_proj");
    for (int64_t e = 0; e < 3; ++e)
      for (int64_t i = 0; i < 10; ++i)
        for (int64_t d = 0; d < 12; ++d) {
          ASSERT_EQ(expected["layers.1.experts.gate"][(e * 10 + i) * 12 + d],
                    gateUp[(e * 12 + d) * 20 + i]);
          ASSERT_EQ(expected["layers.1.experts.up"][(e * 10 + i) * 12 + d],
                    gateUp[(e * 12 + d) * 20 + 10 + i]);
          ASSERT_EQ(expected["layers.1.experts.down"][(e * 12 + d) * 10 + i],
                    down[(e * 10 + i) * 12 + d]);
        }
    EXPECT_EQ(expected["layers.2.q"], readAll(random, "model.layers.2.self_attn.q_proj.weight"));
    EXPECT_EQ(expected["embedding"], readAll(random, "model.embed_tokens.weight"));

    for (ExpertStorage layout : {ExpertStorage::Fused, ExpertStorage::Separate,
                                 ExpertStorage::Linearized, ExpertStorage::Stacked})
      for (bool multimodal : {false, true})
        for (bool recent : {false, true}) {
          TempFolder folder;
          std::vector<TestTensor> tensors = relaid(original, layout);
          if (multimodal) {
            for (TestTensor &tensor : tensors)
              tensor.name = "language_model." + tensor.name;
            tensors.push_back({"vision_model.class_embedding", "F32", {2}, {1, 2}});
            tensors.push_back({"multi_modal_projector.linear_1.weight", "F32", {1, 1}, {1}});
          }
          folder.write("model.safetensors", safetensors(tensors));
          folder.write("config.json", smallConfig(multimodal, recent, dtype));
          std::vector<std::string> warnings;
          auto given = Llama4Config::open(folder.str(), warnings, /*vision=*/false);
          ASSERT_TRUE(bool(given)) << llvm::toString(given.takeError());
          auto checkpoint = Checkpoint::open(folder.str());
          ASSERT_TRUE(bool(checkpoint)) << llvm::toString(checkpoint.takeError());
          auto model = importLlama4(context, *given, *checkpoint);
          ASSERT_TRUE(bool(model)) << llvm::toString(model.takeError());
          EXPECT_EQ(model->ignored.size(), multimodal ? 2u : 0u);
          EXPECT_EQ(weightsOf(*model->module, *checkpoint), expected);
          for (WeightOp weight : model->module->getOps<WeightOp>()) // however many experts
            EXPECT_EQ(weight.getSources().size(), 1u);
          auto weight = *model->module->getOps<WeightOp>().begin();
          EXPECT_EQ(cast<RankedTensorType>(weight.getType()).getElementType().isF32(),
                    dtype == "float32");
        }
  }
}

TEST(Llama4, FindsEachPrefix) {
  MLIRContext context;
  Llama4Config config = parseConfig(smallConfig(true));
  std::vector<TestTensor> original = tensorsOf(RandomWeights(config, 5));
  using Names = std::pair<StringRef, StringRef>; // before "layers.", and of the head
  for (auto [body, head] :
       {Names{"model.", "lm_head.weight"},
        {"language_model.model.", "language_model.lm_head.weight"},
        {"model.language_model.", "lm_head.weight"},
        {"model.language_model.model.", "model.language_model.lm_head.weight"}}) {
    std::vector<TestTensor> tensors = original;
    for (TestTensor &tensor : tensors)
      tensor.name =
          tensor.name == "lm_head.weight" ? head.str() : body.str() + tensor.name.substr(6);
    EXPECT_EQ(messageOf(importLlama4(context, config, MemoryTensors(tensors))), "success");
  }
}

TEST(Llama4, MixedTypesBecomeFloat32) {
  MLIRContext context;
  Llama4Config config = parseConfig(smallConfig());
  std::vector<TestTensor> tensors =
      relaid(tensorsOf(RandomWeights(config, 5)), ExpertStorage::Separate);
  for (TestTensor &tensor : tensors)
    if (StringRef(tensor.name).ends_with("layers.1.feed_forward.experts.2.up_proj.weight"))
      tensor.dtype = "F16";
  auto model = importLlama4(context, config, MemoryTensors(tensors));
  ASSERT_TRUE(bool(model)) << llvm::toString(model.takeError());
  auto type = [&](StringRef name) {
    return cast<RankedTensorType>(model->module->lookupSymbol<WeightOp>(name).getType())
        .getElementType();
  };
  EXPECT_TRUE(type("layers.1.experts.up").isF32());
  EXPECT_TRUE(type("layers.1.experts.gate").isBF16());
}

//===----------------------------------------------------------------------===//
// Nothing missing, nothing left over
//===----------------------------------------------------------------------===//

namespace {

struct TwoWays : ::testing::Test {
  MLIRContext context;
  Llama4Config config = parseConfig(smallConfig());
  std::vector<TestTensor> tensors = tensorsOf(RandomWeights(config, 5));

  TestTensor &at(StringRef name) {
    for (TestTensor &tensor : tensors)
      if (tensor.name == name)
        return tensor;
    ADD_FAILURE() << name.str();
    return tensors[0];
  }
  void erase(StringRef name) {
    llvm::erase_if(tensors, [&](const TestTensor &tensor) { return tensor.name == name; });
  }
  std::string import() { return messageOf(importLlama4(context, config, MemoryTensors(tensors))); }
  std::vector<std::string> ignored() {
    auto model = importLlama4(context, config, MemoryTensors(tensors));
    if (model)
      return model->ignored;
    ADD_FAILURE() << llvm::toString(model.takeError());
    return {};
  }
};

} // namespace

TEST_F(TwoWays, AcceptsWhatFits) {
  EXPECT_EQ(import(), "success");
  EXPECT_TRUE(ignored().empty());
}

TEST_F(TwoWays, RefusesMissingTensors) {
  erase("model.layers.2.self_attn.k_proj.weight");
  EXPECT_EQ(import(), "the tensors do not fit config.json, 1 problem: missing tensor "
                      "model.layers.2.self_attn.k_proj.weight [12, 12]");
  erase("model.layers.1.feed_forward.experts.gate_up_proj");
  EXPECT_EQ(import(),
            "the tensors do not fit config.json, 2 problems: missing tensor "
            "model.layers.1.feed_forward.experts.gate_up_proj [3, 12, 20]; missing tensor "
            "model.layers.2.self_attn.k_proj.weight [12, 12]");
  tensors.clear();
  EXPECT_TRUE(contains(import(), "; and 35 more"));
  EXPECT_TRUE(
      contains(import(), " 45 problems: missing tensor model.embed_tokens.weight [20, 12]; "));
}

TEST_F(TwoWays, RefusesFurtherTensors) {
  tensors.push_back({"model.layers.0.self_attn.q_proj.bias", "F32", {2}, {0, 0}});
  EXPECT_EQ(import(), "the tensors do not fit config.json, 1 problem: tensor "
                      "model.layers.0.self_attn.q_proj.bias [2] is not part of the model");
  // A layer that the configuration does not have is one of those.
  tensors.back().name = "model.layers.4.self_attn.q_proj.weight";
  EXPECT_TRUE(contains(import(), "model.layers.4.self_attn.q_proj.weight [2] is not part of"));
  // So are the experts once more in another layout, whichever is taken.
  tensors.back() = {"model.layers.1.feed_forward.experts.gate_proj.weight",
                    "F32",
                    {3, 10, 12},
                    std::vector<float>(360)};
  EXPECT_TRUE(contains(import(), "is not part of the model"));
}

TEST_F(TwoWays, RefusesWrongShapes) {
  at("model.layers.2.self_attn.k_proj.weight").shape = {24, 6};
  EXPECT_EQ(import(), "the tensors do not fit config.json, 1 problem: tensor "
                      "model.layers.2.self_attn.k_proj.weight is [24, 6], expected [12, 12]");
  // Each tensor is named once, however many weights it is part of.
  at("model.layers.2.self_attn.k_proj.weight").shape = {12, 12};
  at("model.layers.1.feed_forward.experts.gate_up_proj").shape = {3, 20, 12};
  EXPECT_EQ(import(), "the tensors do not fit config.json, 1 problem: tensor "
                      "model.layers.1.feed_forward.experts.gate_up_proj is [3, 20, 12], expected "
                      "[3, 12, 20]");
}

TEST_F(TwoWays, RefusesOtherTypes) {
  at("model.layers.1.feed_forward.experts.down_proj").dtype = "F8_E4M3";
  EXPECT_EQ(import(),
            "the tensors do not fit config.json, 1 problem: tensor "
            "model.layers.1.feed_forward.experts.down_proj is F8_E4M3, expected BF16, F16 "
            "or F32, or a quantization_config in config.json that says how it is quantized");
}

TEST_F(TwoWays, IgnoresWhatIsNotNeeded) {
  tensors.push_back({"vision_model.class_embedding", "I64", {1}, {0}});
  tensors.push_back({"model.vision_model.layernorm_pre.bias", "F32", {1}, {0}});
  tensors.push_back({"multi_modal_projector.linear_1.weight", "F32", {1}, {0}});
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {1}, {0}});
  std::string text = ", of a plan that sees no pictures";
  EXPECT_EQ(ignored(),
            (std::vector<std::string>{
                "vision_model.class_embedding: vision tower" + text,
                "model.vision_model.layernorm_pre.bias: vision tower" + text,
                "multi_modal_projector.linear_1.weight: projector of the vision tower" + text,
                "model.layers.0.self_attn.rotary_emb.inv_freq: rope frequencies, which "
                "follow from config.json"}));
}

TEST_F(TwoWays, HeadMayBeTheEmbedding) {
  config = parseConfig(smallConfig(false, false, "bfloat16", R"("tie_word_embeddings":true,)"));
  EXPECT_EQ(ignored(), (std::vector<std::string>{
                           "lm_head.weight: the head is the embedding (tie_word_embeddings)"}));
  erase("lm_head.weight");
  EXPECT_TRUE(ignored().empty());
  auto model = importLlama4(context, config, MemoryTensors(tensors));
  ASSERT_TRUE(bool(model)) << llvm::toString(model.takeError());
  auto weights = weightsOf(*model->module, MemoryTensors(tensors));
  EXPECT_EQ(weights["head"], weights["embedding"]);
  EXPECT_EQ(RandomWeights(config, 5).find("lm_head.weight"), nullptr);

  config = parseConfig(smallConfig());
  EXPECT_TRUE(contains(import(), "missing tensor lm_head.weight [20, 12]"));
}

TEST_F(TwoWays, IgnoresFurtherLayersIfAsked) {
  ASSERT_EQ(messageOf(config.truncate(3)), "success");
  std::vector<std::string> names = ignored();
  EXPECT_EQ(names.size(), 12u);
  EXPECT_EQ(names[0], "model.layers.3.input_layernorm.weight: beyond --layers 3");
  tensors.push_back({"model.layers.4.input_layernorm.weight", "F32", {1}, {0}});
  EXPECT_TRUE(contains(import(), "model.layers.4.input_layernorm.weight [1] is not part of"));
}

//===----------------------------------------------------------------------===//
// The model
//===----------------------------------------------------------------------===//

// A whole checkpoint on disk gives the logits that Meta's reference code gives.
TEST(Llama4, GivesTheGoldenLogits) {
  for (const golden::Model &golden : {golden::scoutLike(), golden::maverickLike()}) {
    SCOPED_TRACE(golden.name);
    std::vector<TestTensor> tensors;
    for (auto &[name, tensor] : golden::checkpoint(golden))
      tensors.push_back({name, "F32", tensor.shape, tensor.values});
    TempFolder folder;
    folder.write("model.safetensors", safetensors(tensors));
    folder.write("config.json",
                 std::string(R"({"architectures":["Llama4ForCausalLM"],
      "vocab_size":96,"hidden_size":64,"num_hidden_layers":4,"num_attention_heads":4,
      "num_key_value_heads":2,"head_dim":16,"intermediate_size":32,"intermediate_size_mlp":64,
      "num_local_experts":4,"attention_chunk_size":8,"floor_scale":8,"attn_scale":0.1,
      "rms_norm_eps":1e-5,"rope_theta":500000,"torch_dtype":"float32",)") +
                     (golden.qkNorm ? R"("use_qk_norm":true,)" : R"("use_qk_norm":false,)") +
                     (golden.ropeScaling ? R"("rope_scaling":{"rope_type":"llama3",
        "factor":16,"low_freq_factor":1,"high_freq_factor":1,
        "original_max_position_embeddings":8192},)"
                                         : "") +
                     "\"interleave_moe_layer_step\":" + std::to_string(golden.moeStep) + "}");
    std::vector<std::string> warnings;
    auto config = Llama4Config::open(folder.str(), warnings);
    ASSERT_TRUE(bool(config)) << llvm::toString(config.takeError());
    auto checkpoint = Checkpoint::open(folder.str());
    ASSERT_TRUE(bool(checkpoint)) << llvm::toString(checkpoint.takeError());
    MLIRContext context;
    auto model = importLlama4(context, *config, *checkpoint, {.cache = Storage::F32});
    ASSERT_TRUE(bool(model)) << llvm::toString(model.takeError());

    std::vector<int32_t> positions(20);
    for (int32_t i = 0; i < 20; ++i)
      positions[i] = i;
    Interpreter interpreter(*model->module, &*checkpoint);
    FailureOr<std::vector<float>> logits = interpreter.run("step", golden::tokens(), positions,
                                                           std::vector<int32_t>(20, 0), positions);
    ASSERT_TRUE(succeeded(logits));
    ASSERT_EQ(logits->size(), 20u * 96u);
    double sum = 0, squares = 0;
    for (float logit : *logits) {
      sum += logit;
      squares += double(logit) * logit;
    }
    EXPECT_NEAR(sum, golden.logitsSum, 1e-3);
    EXPECT_NEAR(squares, golden.logitsSquares, 1e-2);
    for (const golden::LogitsRow &row : golden.logits) {
      auto begin = logits->begin() + row.position * 96;
      EXPECT_EQ(std::max_element(begin, begin + 96) - begin, row.argmax);
      EXPECT_NEAR(begin[row.argmax], row.largest, 3e-5);
      for (size_t i = 0; i < 4; ++i)
        EXPECT_NEAR(begin[i], row.first[i], 3e-5);
    }
  }
}

TEST(Llama4, ImportsTheBundledModel) {
  std::string folder = MOE_SOURCE_DIR "/models/cria";
  std::vector<std::string> warnings;
  auto config = Llama4Config::open(folder, warnings);
  ASSERT_TRUE(bool(config)) << llvm::toString(config.takeError());
  auto checkpoint = Checkpoint::open(folder);
  ASSERT_TRUE(bool(checkpoint)) << llvm::toString(checkpoint.takeError());
  MLIRContext context;
  auto model = importLlama4(context, *config, *checkpoint);
  ASSERT_TRUE(bool(model)) << llvm::toString(model.takeError());
  EXPECT_TRUE(model->ignored.empty());
  EXPECT_TRUE(warnings.empty());
  uint64_t elements = 0;
  for (const TensorInfo &tensor : checkpoint->tensors())
    elements += tensor.elements;
  EXPECT_EQ(elements, config->parameters());
}

TEST(Llama4, StatesTheFacts) {
  MLIRContext context;
  std::string text = smallConfig(false, false, "bfloat16",
                                 R"("bos_token_id":7,"eos_token_id":[8,9],"pad_token_id":null,
                                    "max_position_embeddings":999,)");
  Llama4Config config = parseConfig(text);
  auto model = importLlama4(context, config, RandomWeights(config, 1));
  ASSERT_TRUE(bool(model)) << llvm::toString(model.takeError());
  auto facts = (*model->module)->getAttrOfType<DictionaryAttr>("moe.model");
  ASSERT_TRUE(facts);
  auto integer = [&](StringRef name) { return facts.getAs<IntegerAttr>(name).getInt(); };
  EXPECT_EQ(facts.getAs<StringAttr>("architecture").getValue(), "Llama4ForCausalLM");
  EXPECT_EQ(integer("vocab_size"), 20);
  EXPECT_EQ(integer("hidden_size"), 12);
  EXPECT_EQ(integer("layers"), 4);
  EXPECT_EQ(integer("heads"), 4);
  EXPECT_EQ(integer("kv_heads"), 2);
  EXPECT_EQ(integer("head_dim"), 6);
  EXPECT_EQ(integer("experts"), 3);
  EXPECT_EQ(integer("experts_per_token"), 1);
  EXPECT_EQ(integer("moe_layers"), 2);
  EXPECT_EQ(integer("attention_chunk"), 8);
  EXPECT_EQ(integer("max_positions"), 999);
  EXPECT_EQ(integer("bos_token"), 7);
  EXPECT_EQ(integer("pad_token"), -1);
  EXPECT_EQ(facts.getAs<DenseI32ArrayAttr>("eos_tokens").asArrayRef(), (ArrayRef<int32_t>{8, 9}));
  EXPECT_EQ(facts.size(), 17u);

  uint64_t weights = 0;
  for (WeightOp weight : model->module->getOps<WeightOp>())
    weights += uint64_t(weight.getType().getNumElements());
  EXPECT_EQ(uint64_t(integer("parameters")), weights);
  EXPECT_EQ(uint64_t(integer("active_parameters")),
            weights - 19 * 12 - 2 * 2 * 3 * 12 * 10); // other tokens, and two experts of two layers

  for (CacheOp cache : model->module->getOps<CacheOp>()) {
    bool global = cache.getSymName() == "layers.3.kv";
    EXPECT_EQ(cache.getChunk(), global ? std::nullopt : std::optional<uint64_t>(8));
    EXPECT_TRUE(cache.getElement().isBF16());
  }
}

TEST(Llama4, ModelWithoutExpertsOrChunks) {
  MLIRContext context;
  Llama4Config config = parseConfig(R"({"architectures":["Llama4ForCausalLM"],"vocab_size":20,
    "hidden_size":12,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,
    "head_dim":6,"intermediate_size":10,"intermediate_size_mlp":14,"num_local_experts":3,
    "moe_layers":[],"attention_chunk_size":null,"no_rope_layers":[1,1]})");
  auto model = importLlama4(context, config, RandomWeights(config, 1));
  ASSERT_TRUE(bool(model)) << llvm::toString(model.takeError());
  auto facts = (*model->module)->getAttrOfType<DictionaryAttr>("moe.model");
  EXPECT_EQ(facts.getAs<IntegerAttr>("experts").getInt(), 0);
  EXPECT_EQ(facts.getAs<IntegerAttr>("moe_layers").getInt(), 0);
  EXPECT_EQ(facts.getAs<IntegerAttr>("attention_chunk").getInt(), 0);
  for (CacheOp cache : model->module->getOps<CacheOp>())
    EXPECT_FALSE(cache.getChunk());
  EXPECT_EQ((*model->module).walk([](ExpertsOp) { return WalkResult::interrupt(); }),
            WalkResult::advance());
}

TEST(Llama4, ImportsPublishedModelsInNoTime) {
  struct {
    StringRef name;
    int64_t parameters, active;
  } models[] = {{"scout", 107'769'861'120 + 871'932'416, 16'138'414'080},
                {"maverick", 400'711'848'960 + 871'932'416, 16'150'210'560},
                {"behemoth-guess", 1'978'826'766'336, 284'786'847'744}};
  for (const auto &[name, parameters, active] : models) {
    MLIRContext context;
    auto start = std::chrono::steady_clock::now();
    std::vector<std::string> warnings;
    auto config = Llama4Config::open((MOE_SOURCE_DIR "/models/configs/" + name).str(), warnings);
    ASSERT_TRUE(bool(config)) << llvm::toString(config.takeError());
    RandomWeights random(*config, 1);
    auto model = importLlama4(context, *config, random);
    ASSERT_TRUE(bool(model)) << llvm::toString(model.takeError());
    std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    EXPECT_LT(took.count(), 5); // far less than a second, but other programs may be running
    RecordProperty((name + "_ms").str(), std::to_string(took.count() * 1000));

    auto facts = (*model->module)->getAttrOfType<DictionaryAttr>("moe.model");
    EXPECT_EQ(facts.getAs<IntegerAttr>("parameters").getInt(), parameters);
    EXPECT_EQ(facts.getAs<IntegerAttr>("active_parameters").getInt(), active);
    int64_t elements = 0, weights = 0;
    for (WeightOp weight : model->module->getOps<WeightOp>())
      elements += weight.getType().getNumElements();
    for (const TensorInfo &tensor : random.tensors())
      weights += int64_t(tensor.elements);
    EXPECT_EQ(elements, parameters);
    EXPECT_EQ(weights, parameters);
    EXPECT_EQ(random.tensors().size(), name == "scout"      ? 579u + 554u
                                       : name == "maverick" ? 507u + 554u
                                                            : 3u + 128 * 12);
  }
}
