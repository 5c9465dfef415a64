// The vision tower of checkpoints: every tensor of it under every name, and nothing left over.
#include "compiler/import/Llama4Vision.h"
#include "compiler/import/Llama4.h"
#include "compiler/import/RandomWeights.h"
#include "compiler/import/TestTensors.h"
#include "dialects/moe/MoeOps.h"
#include "dialects/moe/WeightSources.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"

using namespace moe;
using namespace moe::test;
using namespace mlir;

namespace {

struct VisionImport : ::testing::Test {
  VisionImport() {
    std::vector<std::string> warnings;
    config = llvm::cantFail(Llama4Config::parse(R"({
      "architectures":["Llama4ForConditionalGeneration"],"boi_token_index":15,"eoi_token_index":16,
      "image_token_index":19,
      "text_config":{"vocab_size":20,"hidden_size":12,"num_hidden_layers":2,
        "num_attention_heads":4,"num_key_value_heads":2,"head_dim":6,"intermediate_size":10,
        "num_local_experts":3},
      "vision_config":{"hidden_size":16,"num_hidden_layers":2,"num_attention_heads":2,
        "intermediate_size":64,"image_size":28,"patch_size":14,"pixel_shuffle_ratio":0.5,
        "projector_input_dim":24,"projector_output_dim":24,"vision_output_dim":24,
        "rope_theta":100}})",
                                                "config.json", warnings));
    RandomWeights random(config, 5);
    for (const TensorInfo &tensor : random.tensors())
      tensors.push_back(
          {tensor.name, tensor.dtypeName, tensor.shape, readAll(random, tensor.name)});
  }

  static bool isVision(StringRef name) {
    return name.starts_with("vision_model.") || name.starts_with("multi_modal_projector.");
  }
  void erase(StringRef name) {
    llvm::erase_if(tensors, [&](const TestTensor &tensor) { return tensor.name == name; });
  }
  std::string import() { return messageOf(importLlama4(context, config, MemoryTensors(tensors))); }
  ImportedModel imported() {
    auto model = importLlama4(context, config, MemoryTensors(tensors));
    if (model)
      return std::move(*model);
    ADD_FAILURE() << llvm::toString(model.takeError());
    return {};
  }

  MLIRContext context;
  Llama4Config config;
  std::vector<TestTensor> tensors;
};

} // namespace

TEST_F(VisionImport, MakesAFunctionBesideTheStep) {
  ImportedModel model = imported();
  ASSERT_TRUE(model.module);
  EXPECT_TRUE(model.ignored.empty());
  auto vision = model.module->lookupSymbol<func::FuncOp>("vision"),
       step = model.module->lookupSymbol<func::FuncOp>("step");
  ASSERT_TRUE(vision && step);
  auto matrix = RankedTensorType::get({ShapedType::kDynamic, 12}, Float32Type::get(&context));
  auto bytes = IntegerType::get(&context, 8, IntegerType::Unsigned);
  EXPECT_EQ(vision.getArgumentTypes(),
            ArrayRef<Type>(RankedTensorType::get({ShapedType::kDynamic, 28, 28, 3}, bytes)));
  EXPECT_EQ(vision.getResultTypes(), ArrayRef<Type>(matrix));
  ASSERT_EQ(step.getNumArguments(), 6u);
  EXPECT_EQ(step.getArgumentTypes()[4], matrix);
  EXPECT_EQ(step.getArgumentTypes()[5], step.getArgumentTypes()[0]);

  auto facts = (*model.module)->getAttrOfType<DictionaryAttr>("moe.vision");
  ASSERT_TRUE(facts);
  auto integer = [&](StringRef name) { return facts.getAs<IntegerAttr>(name).getInt(); };
  EXPECT_EQ(integer("tile_size"), 28);
  EXPECT_EQ(integer("patch_size"), 14);
  EXPECT_EQ(integer("rows_per_tile"), 1);
  EXPECT_EQ(integer("max_tiles"), 16);
  EXPECT_EQ(integer("image_start"), 15);
  EXPECT_EQ(integer("image_end"), 16);
  EXPECT_EQ(integer("patch"), 19);
  EXPECT_EQ(integer("tile_x_separator"), -1);
  EXPECT_EQ(facts.size(), 10u);

  uint64_t weights = 0;
  for (WeightOp weight : model.module->getOps<WeightOp>())
    weights += uint64_t(weight.getType().getNumElements());
  EXPECT_EQ(weights, config.parameters());
}

TEST_F(VisionImport, FindsEachPrefix) {
  auto weightsOf = [&](ArrayRef<TestTensor> from) {
    MemoryTensors source(from.vec());
    std::map<std::string, std::vector<float>> result;
    auto model = importLlama4(context, config, source);
    if (!model) {
      ADD_FAILURE() << llvm::toString(model.takeError());
      return result;
    }
    EXPECT_TRUE(model->ignored.empty());
    for (WeightOp weight : model->module->getOps<WeightOp>()) {
      std::vector<float> values(size_t(weight.getType().getNumElements()));
      EXPECT_TRUE(succeeded(gatherWeight(weight, source, values)));
      result[weight.getSymName().str()] = std::move(values);
    }
    return result;
  };
  auto expected = weightsOf(tensors);
  EXPECT_EQ(expected["vision.layers.1.fc2"],
            readAll(MemoryTensors(tensors), "vision_model.model.layers.1.mlp.fc2.weight"));
  EXPECT_EQ(expected["vision.layers.1.k_bias"],
            readAll(MemoryTensors(tensors), "vision_model.model.layers.1.self_attn.k_proj.bias"));
  using Names = std::array<StringRef, 3>; // of the text, the tower and the projector
  for (const Names &prefixes :
       {Names{"language_model.model.", "vision_model.", "multi_modal_projector."},
        Names{"model.language_model.", "model.vision_model.", "model.multi_modal_projector."},
        Names{"language_model.model.", "vision_tower.", "multi_modal_projector."},
        Names{"model.language_model.", "model.vision_tower.", "model.multi_modal_projector."}}) {
    std::vector<TestTensor> renamed = tensors;
    for (TestTensor &tensor : renamed) {
      StringRef name = tensor.name;
      if (name.consume_front("model."))
        tensor.name = (prefixes[0] + name).str();
      else if (name.consume_front("vision_model."))
        tensor.name = (prefixes[1] + name).str();
      else if (name.consume_front("multi_modal_projector."))
        tensor.name = (prefixes[2] + name).str();
    }
    EXPECT_EQ(weightsOf(renamed), expected) << prefixes[1].str();
  }
}

TEST_F(VisionImport, UsesEveryTensor) {
  for (const TestTensor &tensor : std::vector<TestTensor>(tensors)) {
    if (!isVision(tensor.name))
      continue;
    std::vector<TestTensor> all = tensors;
    erase(tensor.name);
    std::string shape;
    for (int64_t dim : tensor.shape)
      shape += (shape.empty() ? "" : ", ") + std::to_string(dim);
    EXPECT_EQ(import(), "the tensors do not fit config.json, 1 problem: missing tensor " +
                            tensor.name + " [" + shape + "]");
    tensors = std::move(all);
  }
}

TEST_F(VisionImport, RefusesWhatDoesNotFit) {
  tensors.push_back({"vision_model.model.layers.2.mlp.fc1.bias", "F32", {1}, {0}});
  EXPECT_TRUE(
      contains(import(), "vision_model.model.layers.2.mlp.fc1.bias [1] is not part of the"));
  tensors.back() = {"vision_model.vision_adapter.mlp.fc1.bias", "F32", {1}, {0}};
  EXPECT_TRUE(contains(import(), "vision_adapter.mlp.fc1.bias [1] is not part of the model"));
  tensors.pop_back();
  for (TestTensor &tensor : tensors)
    if (tensor.name == "vision_model.positional_embedding_vlm")
      tensor.shape = {16, 5};
  EXPECT_TRUE(contains(import(), "positional_embedding_vlm is [16, 5], expected [5, 16]"));
}

TEST_F(VisionImport, RefusesTheOlderPositions) {
  for (TestTensor &tensor : tensors)
    if (tensor.name == "vision_model.positional_embedding_vlm")
      tensor.name = "vision_model.positional_embedding";
  EXPECT_TRUE(contains(import(), "the checkpoint has the tensor vision_model.positional_embedding "
                                 "and no vision_model.positional_embedding_vlm"));
}

TEST_F(VisionImport, LeavesPicturesOut) {
  config.vision.reset();
  ImportedModel model = imported();
  ASSERT_TRUE(model.module);
  EXPECT_FALSE(model.module->lookupSymbol("vision"));
  EXPECT_FALSE((*model.module)->hasAttr("moe.vision"));
  EXPECT_EQ(model.module->lookupSymbol<func::FuncOp>("step").getNumArguments(), 4u);
  EXPECT_EQ(model.ignored.size(), 42u);
  EXPECT_EQ(int64_t(model.ignored.size()),
            llvm::count_if(tensors, [](const TestTensor &t) { return isVision(t.name); }));
  for (const std::string &line : model.ignored)
    EXPECT_TRUE(contains(line, ", of a plan that sees no pictures"));
}

TEST_F(VisionImport, TruncatesBothHalves) {
  ASSERT_EQ(messageOf(config.truncate(1)), "success");
  ImportedModel model = imported();
  ASSERT_TRUE(model.module);
  EXPECT_EQ(model.ignored.size(), 12u + 16u);
  EXPECT_EQ(
      llvm::count(model.ignored, "vision_model.model.layers.1.mlp.fc1.bias: beyond --layers 1"), 1);
  EXPECT_EQ(RandomWeights(config, 5).tensors().size(), tensors.size() - 28);
}

TEST_F(VisionImport, KnowsWhetherThereIsATower) {
  EXPECT_TRUE(hasVisionTower(MemoryTensors(tensors)));
  llvm::erase_if(tensors, [](const TestTensor &tensor) { return isVision(tensor.name); });
  EXPECT_FALSE(hasVisionTower(MemoryTensors(tensors)));
}
