// What config.json and preprocessor_config.json may say of pictures, and what they may not say.
#include "compiler/import/Config.h"
#include "compiler/import/TestTensors.h"

using namespace moe;
using namespace moe::test;
namespace json = llvm::json;

namespace {

json::Value parsed(llvm::StringRef value) { return llvm::cantFail(json::parse(value)); }

// A small tower with every field that matters.
json::Object tower() {
  return *parsed(R"({"model_type":"llama4_vision_model","hidden_size":16,"num_hidden_layers":3,
    "num_attention_heads":2,"num_channels":3,"intermediate_size":64,"image_size":56,"patch_size":14,
    "pixel_shuffle_ratio":0.5,"projector_input_dim":24,"projector_output_dim":24,
    "vision_output_dim":24,"hidden_act":"gelu","norm_eps":1e-3,"rope_theta":10000,
    "multi_modal_projector_bias":false,"vision_feature_select_strategy":"default"})")
              .getAsObject();
}

// A model with such a tower and further fields.
json::Object model(json::Object vision, llvm::StringRef more = "{}") {
  json::Object top = *parsed(R"({"architectures":["Llama4ForConditionalGeneration"],
    "boi_token_index":90,"eoi_token_index":91,"image_token_index":95,
    "text_config":{"vocab_size":96,"hidden_size":12,"num_hidden_layers":4,"num_attention_heads":4,
                   "num_key_value_heads":2,"head_dim":6}})")
                          .getAsObject();
  top["vision_config"] = std::move(vision);
  const json::Value further = parsed(more);
  for (const auto &[key, value] : *further.getAsObject())
    if (value.kind() == json::Value::Null)
      top.erase(key);
    else
      top[key] = value;
  return top;
}

std::string text(json::Object object) {
  std::string result;
  llvm::raw_string_ostream(result) << json::Value(std::move(object));
  return result;
}

llvm::Expected<Llama4Config> read(json::Object object, bool vision = true) {
  std::vector<std::string> warnings;
  auto config = Llama4Config::parse(text(std::move(object)), "config.json", warnings, vision);
  EXPECT_TRUE(warnings.empty());
  return config;
}

VisionConfig parse(json::Object object) {
  auto config = read(std::move(object));
  if (config && config->vision)
    return *config->vision;
  ADD_FAILURE() << messageOf(std::move(config));
  return {};
}

// The message for a tower with one field set to this JSON, or without it if that is empty.
std::string refusal(llvm::StringRef key, llvm::StringRef value) {
  json::Object vision = tower();
  vision.erase(key);
  if (!value.empty())
    vision[key] = parsed(value);
  return messageOf(read(model(std::move(vision))));
}

// That of a preprocessor_config.json.
std::string preprocessorRefusal(llvm::StringRef json,
                                llvm::StringRef name = "preprocessor_config.json") {
  TempFolder folder;
  folder.write("config.json", text(model(tower())));
  folder.write(name, json);
  std::vector<std::string> warnings;
  return messageOf(Llama4Config::open(folder.str(), warnings));
}

VisionConfig preprocessed(llvm::StringRef json, llvm::StringRef name = "preprocessor_config.json") {
  TempFolder folder;
  folder.write("config.json", text(model(tower())));
  folder.write(name, json);
  std::vector<std::string> warnings;
  auto config = Llama4Config::open(folder.str(), warnings);
  if (config && config->vision)
    return *config->vision;
  ADD_FAILURE() << messageOf(std::move(config));
  return {};
}

} // namespace

TEST(VisionConfig, ReadsTheTower) {
  VisionConfig config = parse(model(tower()));
  EXPECT_EQ(config.hiddenSize, 16);
  EXPECT_EQ(config.layers, 3);
  EXPECT_EQ(config.checkpointLayers, 3);
  EXPECT_EQ(config.heads, 2);
  EXPECT_EQ(config.mlpWidth, 64);
  EXPECT_EQ(config.tileSize, 56);
  EXPECT_EQ(config.patchSize, 14);
  EXPECT_EQ(config.adapterWidth, 24);
  EXPECT_EQ(config.ropeTheta, 10000);
  EXPECT_EQ(config.grid(), 4);
  EXPECT_EQ(config.rowsPerTile(), 4);
  EXPECT_EQ(config.maxTiles, 16);
  EXPECT_EQ(config.rescale, 1 / 255.0);

  json::Object recent = tower();
  recent.erase("rope_theta");
  recent["rope_parameters"] = parsed(R"({"rope_type":"default","rope_theta":77})");
  EXPECT_EQ(parse(model(std::move(recent))).ropeTheta, 77);
}

TEST(VisionConfig, MayBeMissingOrLeftOut) {
  EXPECT_FALSE(llvm::cantFail(read(model(tower(), R"({"vision_config":null})"))).vision);
  EXPECT_FALSE(llvm::cantFail(read(model(tower()), /*vision=*/false)).vision);
  // Nothing of it is read then, however wrong.
  EXPECT_FALSE(
      llvm::cantFail(read(model(tower(), R"({"vision_config":3})"), /*vision=*/false)).vision);
  EXPECT_TRUE(contains(messageOf(read(model(tower(), R"({"vision_config":3})"))),
                       "vision_config is 3, expected an object"));
  // A model of text alone does not see, whatever its file says.
  EXPECT_FALSE(
      llvm::cantFail(read(model(tower(), R"({"architectures":["Llama4ForCausalLM"]})"))).vision);
}

TEST(VisionConfig, CountsAndTruncates) {
  Llama4Config config = llvm::cantFail(read(model(tower())));
  Llama4Config text = llvm::cantFail(read(model(tower()), /*vision=*/false));
  // Of a layer: four linears of 16 x 16, two of 64 x 16, their biases, two norms.
  const uint64_t layer = 4 * (256 + 16) + 2 * 1024 + 64 + 16 + 2 * 32;
  const uint64_t rest = 16 * 588 + 16 + 17 * 16 + 2 * 32 + 24 * 64 + 24 * 24 + 12 * 24;
  EXPECT_EQ(config.parameters() - text.parameters(), 3 * layer + rest);
  EXPECT_EQ(config.activeParameters(), text.activeParameters());
  ASSERT_EQ(messageOf(config.truncate(1)), "success");
  EXPECT_EQ(config.vision->layers, 1);
  EXPECT_EQ(config.vision->checkpointLayers, 3);
  Llama4Config four = llvm::cantFail(read(model(tower())));
  ASSERT_EQ(messageOf(four.truncate(4)), "success"); // of the text, which has one more
  EXPECT_EQ(four.vision->layers, 3);
}

TEST(VisionConfig, KnowsTheTokensOfPictures) {
  PictureTokens tokens = parse(model(tower())).tokens;
  EXPECT_EQ(tokens.imageStart, 90);
  EXPECT_EQ(tokens.imageEnd, 91);
  EXPECT_EQ(tokens.patch, 95);
  EXPECT_EQ(tokens.image, -1); // no field says it
  // Another spelling.
  EXPECT_EQ(parse(model(tower(), R"({"image_token_index":null,"image_token_id":94})")).tokens.patch,
            94);
  // What transformers takes where a file says nothing, which the published vocabulary has.
  tokens = parse(model(tower(), R"({"boi_token_index":null,"eoi_token_index":null,
      "image_token_index":null,"text_config":{}})"))
               .tokens;
  EXPECT_EQ(tokens.imageStart, 200080);
  EXPECT_EQ(tokens.imageEnd, 200081);
  EXPECT_EQ(tokens.tileXSeparator, 200084);
  EXPECT_EQ(tokens.tileYSeparator, 200085);
  EXPECT_EQ(tokens.image, 200090);
  EXPECT_EQ(tokens.patch, 200092);

  EXPECT_EQ(messageOf(read(model(tower(), R"({"boi_token_index":96})"))),
            "config.json: tokens of pictures: boi_token_index is 96, expected an integer from 0 to "
            "95 (--no-vision leaves pictures out)");
  EXPECT_TRUE(contains(messageOf(read(model(tower(), R"({"image_token_index":null})"))),
                       "there is no image_token_index, and that of Llama 4, 200092, is beyond a "
                       "vocabulary of 96"));
  EXPECT_TRUE(contains(messageOf(read(model(tower(), R"({"image_token_index":90})"))),
                       "are 90, 91 and 90, expected three different tokens"));
}

TEST(VisionConfig, RequiresWhatHasNoUsualValue) {
  for (const char *key : {"hidden_size", "num_hidden_layers", "num_attention_heads",
                          "intermediate_size", "image_size", "patch_size", "projector_input_dim",
                          "projector_output_dim", "vision_output_dim", "rope_theta"}) {
    EXPECT_EQ(refusal(key, ""), std::string("config.json: vision_config: there is no ") + key +
                                    ", which a vision tower has no usual value of (--no-vision "
                                    "leaves pictures out)");
    EXPECT_NE(refusal(key, "-1"), "success") << key;
    EXPECT_NE(refusal(key, "\"16\""), "success") << key;
  }
}

TEST(VisionConfig, RefusesTowersOfAnotherKind) {
  auto expect = [](llvm::StringRef key, llvm::StringRef value, llvm::StringRef part) {
    EXPECT_TRUE(contains(refusal(key, value), part));
  };
  expect("num_attention_heads", "3", "expected heads of a multiple of 4 channels");
  expect("num_attention_heads", "8", "expected heads of a multiple of 4 channels");
  expect("image_size", "55", "image_size is 55 and patch_size 14, expected an even number of");
  expect("image_size", "42", "image_size is 42 and patch_size 14, expected an even number of");
  expect("patch_size", "0", "patch_size is 0, expected an integer from 1");
  expect("image_size", "1000000", "image_size is 1000000, expected an integer from 1 to 4096");
  expect("pixel_shuffle_ratio", "", "pixel_shuffle_ratio is missing, expected 0.5");
  expect("pixel_shuffle_ratio", "0.25", "pixel_shuffle_ratio is 0.25, expected 0.5");
  expect("pixel_shuffle_ratio", "\"a\"", "pixel_shuffle_ratio is \"a\", expected 0.5");
  expect("intermediate_size", "60", "expected four times hidden_size, 64");
  expect("projector_input_dim", "20", "projector_input_dim is 20, but projector_output_dim is 24");
  expect("vision_output_dim", "20", "vision_output_dim is 20, but projector_output_dim is 24");
  expect("num_channels", "1", "num_channels is not 3");
  expect("hidden_act", "\"silu\"", "hidden_act is \"silu\", expected \"gelu\"");
  expect("multi_modal_projector_bias", "true", "multi_modal_projector_bias is true");
  expect("rope_theta", "0", "rope_theta is 0, expected a positive number");
  expect("rope_theta", "1e300", "expected a positive number");
  json::Object scaled = tower();
  scaled.erase("rope_theta");
  scaled["rope_parameters"] = parsed(R"({"rope_type":"llama3","rope_theta":77})");
  EXPECT_TRUE(contains(messageOf(read(model(std::move(scaled)))),
                       "expected an object of rope_type \"default\""));
}

TEST(VisionConfig, ReadsHowPicturesAreNormalized) {
  constexpr llvm::StringRef fields = R"({"image_processor_type":"Llama4ImageProcessorFast",
    "size":{"height":56,"width":56},"max_patches":9,"resize_to_max_canvas":false,"do_resize":true,
    "do_rescale":true,"rescale_factor":0.25,"do_normalize":true,"image_mean":[0.1,0,-0.5],
    "image_std":[0.5,1,2],"resample":2})";
  auto expectRead = [](const VisionConfig &config) {
    EXPECT_EQ(config.maxTiles, 9);
    EXPECT_EQ(config.rescale, 0.25);
    EXPECT_EQ(config.mean, (std::array<double, 3>{0.1, 0, -0.5}));
    EXPECT_EQ(config.std, (std::array<double, 3>{0.5, 1, 2}));
  };
  expectRead(preprocessed(fields));
  // transformers 5 has it in a larger file.
  expectRead(preprocessed(("{\"image_processor\":" + fields + "}").str(), "processor_config.json"));
  EXPECT_EQ(preprocessed("{}", "processor_config.json").maxTiles, 16);
  EXPECT_EQ(preprocessed(R"({"size":56})").maxTiles, 16);
}

TEST(VisionConfig, RefusesOtherPreprocessing) {
  auto expect = [](llvm::StringRef json, llvm::StringRef part) {
    EXPECT_TRUE(contains(preprocessorRefusal(json), part));
  };
  expect(R"({"resize_to_max_canvas":true})",
         "preprocessor_config.json: resize_to_max_canvas is true, expected false: pictures are "
         "enlarged as little as possible (--no-vision leaves pictures out)");
  expect(R"({"size":{"height":56,"width":28}})",
         "expected tiles of 56 by 56 pixels, as image_size of vision_config says");
  expect(R"({"size":336})", "size is 336, expected tiles of 56 by 56 pixels");
  expect(R"({"size":{"longest_edge":56}})", "expected tiles of 56 by 56 pixels");
  expect(R"({"max_patches":0})", "max_patches is 0, expected an integer from 1 to 1024");
  expect(R"({"do_resize":false})", "do_resize is false, expected true");
  expect(R"({"do_rescale":false})", "do_rescale is false, expected true");
  expect(R"({"do_normalize":false})", "do_normalize is false, expected true");
  expect(R"({"resample":3})", "resample is 3, expected 2, which is bilinear");
  expect(R"({"rescale_factor":0})", "rescale_factor is 0, expected a positive number");
  expect(R"({"image_mean":[0.5,0.5]})", "expected three numbers");
  expect(R"({"image_mean":0.5})", "image_mean is 0.5, expected a list of three numbers");
  expect(R"({"image_std":[0.5,0,0.5]})", "expected three positive numbers");
  expect(R"({"image_std":[0.5,1e-60,0.5]})", "expected three positive numbers");
  expect(R"({"image_processor_type":"CLIPImageProcessor"})",
         "image_processor_type is \"CLIPImageProcessor\", expected \"Llama4ImageProcessorFast\"");
  expect("[]", "is not a JSON object");
  expect("{", "preprocessor_config.json");
  EXPECT_TRUE(contains(
      preprocessorRefusal(R"({"image_processor":{"resample":0}})", "processor_config.json"),
      "processor_config.json: resample is 0"));
}
