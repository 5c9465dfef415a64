// What config.json may say, what follows from it, and what it may not say.
#include "compiler/import/Config.h"
#include "compiler/import/TestTensors.h"

using namespace moe;
using namespace moe::test;
namespace json = llvm::json;

// A small text model with every field that matters.
static json::Object fields() {
  return json::Object{{"architectures", json::Array{"Llama4ForCausalLM"}},
                      {"attention_bias", false},
                      {"attention_chunk_size", 8},
                      {"attn_scale", 0.1},
                      {"attn_temperature_tuning", true},
                      {"bos_token_id", 90},
                      {"eos_token_id", json::Array{91, 92}},
                      {"floor_scale", 8},
                      {"head_dim", 16},
                      {"hidden_act", "silu"},
                      {"hidden_size", 64},
                      {"interleave_moe_layer_step", 2},
                      {"intermediate_size", 32},
                      {"intermediate_size_mlp", 48},
                      {"max_position_embeddings", 1000},
                      {"model_type", "llama4_text"},
                      {"no_rope_layer_interval", 4},
                      {"num_attention_heads", 4},
                      {"num_experts_per_tok", 1},
                      {"num_hidden_layers", 6},
                      {"num_key_value_heads", 2},
                      {"num_local_experts", 3},
                      {"pad_token_id", 93},
                      {"rms_norm_eps", 1e-5},
                      {"rope_theta", 10000.0},
                      {"tie_word_embeddings", false},
                      {"torch_dtype", "bfloat16"},
                      {"use_qk_norm", true},
                      {"vocab_size", 96}};
}

static std::string text(json::Object object) {
  std::string result;
  llvm::raw_string_ostream(result) << json::Value(std::move(object));
  return result;
}

static json::Value parsed(llvm::StringRef value) { return llvm::cantFail(json::parse(value)); }

// The small model with one field set to this JSON, or without it if that is empty.
static json::Object with(llvm::StringRef key, llvm::StringRef value,
                         json::Object object = fields()) {
  object.erase(key);
  if (!value.empty())
    object[key] = parsed(value);
  return object;
}

static Llama4Config parse(json::Object object) {
  std::vector<std::string> warnings;
  auto config = Llama4Config::parse(text(std::move(object)), "config.json", warnings);
  if (!config) {
    ADD_FAILURE() << llvm::toString(config.takeError());
    return {};
  }
  return std::move(*config);
}

static std::string refusal(json::Object object) {
  std::vector<std::string> warnings;
  return messageOf(Llama4Config::parse(text(std::move(object)), "config.json", warnings));
}
static std::string refusal(llvm::StringRef key, llvm::StringRef value) {
  return refusal(with(key, value));
}

static std::string ropeOf(const Llama4Config &config) {
  std::string result;
  for (int64_t i = 0; i < config.layers; ++i)
    result += config.usesRope(i) ? 'r' : '-';
  return result;
}
static std::string moeOf(const Llama4Config &config) {
  std::string result;
  for (int64_t i = 0; i < config.layers; ++i)
    result += config.isMoe(i) ? 'm' : '-';
  return result;
}

static Llama4Config published(const std::string &name) {
  std::vector<std::string> warnings;
  auto config = Llama4Config::open(MOE_SOURCE_DIR "/models/configs/" + name, warnings);
  EXPECT_TRUE(warnings.empty());
  if (!config) {
    ADD_FAILURE() << llvm::toString(config.takeError());
    return {};
  }
  return std::move(*config);
}

TEST(Config, ReadsEachField) {
  Llama4Config c = parse(fields());
  EXPECT_EQ(c.architecture, "Llama4ForCausalLM");
  EXPECT_EQ(c.vocabSize, 96);
  EXPECT_EQ(c.hiddenSize, 64);
  EXPECT_EQ(c.layers, 6);
  EXPECT_EQ(c.heads, 4);
  EXPECT_EQ(c.kvHeads, 2);
  EXPECT_EQ(c.headDim, 16);
  EXPECT_EQ(c.expertWidth, 32);
  EXPECT_EQ(c.denseWidth, 48);
  EXPECT_EQ(c.experts, 3);
  EXPECT_EQ(c.expertsPerToken, 1);
  EXPECT_EQ(c.maxPositions, 1000);
  EXPECT_FALSE(c.tiedEmbeddings);
  EXPECT_EQ(c.dtype, Storage::BF16);
  EXPECT_EQ(c.normEps, 1e-5);
  EXPECT_EQ(c.ropeTheta, 10000);
  EXPECT_FALSE(c.ropeScaling);
  EXPECT_TRUE(c.qkNorm);
  EXPECT_TRUE(c.temperature);
  EXPECT_EQ(c.temperatureScale, 0.1);
  EXPECT_EQ(c.temperatureFloor, 8);
  EXPECT_EQ(c.attentionChunk, 8);
  EXPECT_EQ(c.bosToken, 90);
  EXPECT_EQ(c.padToken, 93);
  EXPECT_EQ(c.eosTokens, (std::vector<int32_t>{91, 92}));
  EXPECT_EQ(ropeOf(c), "rrr-rr");
  EXPECT_EQ(moeOf(c), "-m-m-m");
}

TEST(Config, ReadsPublishedModels) {
  Llama4Config scout = published("scout"), maverick = published("maverick");
  const uint64_t tower = 871'932'416;
  EXPECT_EQ(scout.parameters(), 107'769'861'120u + tower);
  EXPECT_EQ(scout.activeParameters(), 16'138'414'080u);
  EXPECT_EQ(maverick.parameters(), 400'711'848'960u + tower);
  EXPECT_EQ(maverick.activeParameters(), 16'150'210'560u);
  EXPECT_EQ(moeOf(scout), std::string(48, 'm'));
  EXPECT_EQ(maverick.moeLayers(), 24);
  EXPECT_EQ(llvm::StringRef(ropeOf(scout)).count('-'), 12u);
  EXPECT_EQ(ropeOf(scout), ropeOf(maverick));
  EXPECT_TRUE(scout.qkNorm);
  EXPECT_FALSE(maverick.qkNorm);
  ASSERT_TRUE(scout.ropeScaling);
  EXPECT_EQ(scout.ropeScaling->factor, 16);
  EXPECT_EQ(scout.ropeScaling->highFrequency, 1);
  EXPECT_FALSE(maverick.ropeScaling);
  EXPECT_EQ(scout.bosToken, 200000);
  EXPECT_EQ(scout.eosTokens, (std::vector<int32_t>{200001, 200007, 200008}));
  EXPECT_EQ(scout.architecture, "Llama4ForConditionalGeneration");

  Llama4Config behemoth = published("behemoth-guess");
  EXPECT_EQ(behemoth.parameters(), 1'978'826'766'336u);
  EXPECT_EQ(behemoth.activeParameters(), 284'786'847'744u);
}

TEST(Config, MissingFieldsAreScoutsExceptSome) {
  Llama4Config scout = published("scout");
  scout.vision.reset(); // which has no usual values
  for (llvm::StringRef given :
       {R"({"architectures":["Llama4ForCausalLM"]})", R"({"model_type":"llama4_text"})",
        R"({"model_type":"llama4","text_config":{}})",
        R"({"architectures":null,"model_type":"llama4","text_config":{"moe_layers":null,
            "layer_types":null,"no_rope_layers":null,"rope_scaling":null}})"}) {
    Llama4Config c = parse(*parsed(given).getAsObject());
    EXPECT_EQ(c.parameters(), scout.parameters());
    EXPECT_EQ(c.activeParameters(), scout.activeParameters());
    EXPECT_EQ(ropeOf(c), ropeOf(scout));
    EXPECT_EQ(c.attentionChunk, 8192);
    EXPECT_TRUE(c.qkNorm);
    EXPECT_TRUE(c.temperature);
    EXPECT_EQ(c.temperatureScale, 0.1);
    EXPECT_EQ(c.temperatureFloor, 8192);
    EXPECT_EQ(c.ropeTheta, 500000);
    EXPECT_EQ(c.normEps, 1e-5);
    EXPECT_EQ(c.maxPositions, 131072);
    EXPECT_FALSE(c.ropeScaling);
    EXPECT_EQ(c.bosToken, 1);
    EXPECT_EQ(c.eosTokens, std::vector<int32_t>{2});
    EXPECT_EQ(c.padToken, -1);
    EXPECT_EQ(c.dtype, Storage::BF16);
  }
}

TEST(Config, DerivesLayers) {
  EXPECT_EQ(ropeOf(parse(with("no_rope_layers", "null"))), "rrr-rr");
  EXPECT_EQ(ropeOf(parse(with("no_rope_layers", "[]"))), "rrr-rr");
  EXPECT_EQ(ropeOf(parse(with("no_rope_layers", "[0,1,1,0,1,1]"))), "-rr-rr");
  EXPECT_EQ(ropeOf(parse(with("no_rope_layer_interval", "2"))), "r-r-r-");
  EXPECT_EQ(ropeOf(parse(with("no_rope_layer_interval", "1"))), "------");
  EXPECT_EQ(ropeOf(parse(with("no_rope_layer_interval", "7"))), "rrrrrr");

  EXPECT_EQ(moeOf(parse(with("moe_layers", "null"))), "-m-m-m");
  EXPECT_EQ(moeOf(parse(with("moe_layers", "[]"))), "------");
  EXPECT_EQ(moeOf(parse(with("moe_layers", "[5, 0]"))), "m----m");
  EXPECT_EQ(moeOf(parse(with("interleave_moe_layer_step", "1"))), "mmmmmm");
  EXPECT_EQ(moeOf(parse(with("interleave_moe_layer_step", "4"))), "---m--");
  EXPECT_EQ(moeOf(parse(with("interleave_moe_layer_step", "9"))), "------");

  std::string types = R"(["chunked_attention","chunked_attention","chunked_attention",
                          "full_attention","chunked_attention","chunked_attention"])";
  EXPECT_EQ(ropeOf(parse(with("layer_types", types))), "rrr-rr");
  EXPECT_EQ(parse(with("attention_chunk_size", "null")).attentionChunk, std::nullopt);
  // Without chunks nothing tells the types apart.
  EXPECT_EQ(
      ropeOf(parse(with("attention_chunk_size", "null",
                        with("layer_types", types, with("no_rope_layers", "[1,1,1,1,1,1]"))))),
      "rrrrrr");

  EXPECT_EQ(parse(with("head_dim", "null")).headDim, 16);
  EXPECT_EQ(parse(with("num_key_value_heads", "null")).kvHeads, 4);
  EXPECT_FALSE(parse(with("attn_temperature_tuning", "0")).temperature);
  EXPECT_TRUE(parse(with("attn_temperature_tuning", "4")).temperature);
  EXPECT_FALSE(parse(with("attn_temperature_tuning", "false")).temperature);
  EXPECT_EQ(parse(with("floor_scale", "8.0")).temperatureFloor, 8);
  EXPECT_EQ(parse(with("attention_chunk_size", "8.0")).attentionChunk, 8);
}

TEST(Config, ReadsBothSpellings) {
  std::string scaling = R"("factor":16.0,"low_freq_factor":1.0,"high_freq_factor":1.0,
                           "original_max_position_embeddings":8192)";
  json::Object old = with("rope_scaling", "{\"rope_type\":\"llama3\"," + scaling + "}");
  json::Object older = with("rope_scaling", "{\"type\":\"llama3\"," + scaling + "}");
  json::Object recent =
      with("rope_theta", "",
           with("torch_dtype", "",
                with("dtype", "\"float16\"",
                     with("rope_parameters",
                          R"({"rope_type":"llama3","rope_theta":10000.0,)" + scaling + "}"))));
  json::Object both = with("rope_parameters",
                           R"({"rope_type":"llama3","rope_theta":10000.0,)" + scaling + "}", old);
  for (const json::Object &object : {old, older, recent, both}) {
    Llama4Config c = parse(object);
    EXPECT_EQ(c.ropeTheta, 10000);
    ASSERT_TRUE(c.ropeScaling);
    EXPECT_EQ(c.ropeScaling->factor, 16);
    EXPECT_EQ(c.ropeScaling->lowFrequency, 1);
    EXPECT_EQ(c.ropeScaling->highFrequency, 1);
    EXPECT_EQ(c.ropeScaling->originalPositions, 8192);
  }
  EXPECT_EQ(parse(recent).dtype, Storage::F16);
  EXPECT_EQ(parse(with("torch_dtype", "\"torch.float32\"")).dtype, Storage::F32);
  Llama4Config plain = parse(
      with("rope_theta", "", with("rope_parameters", R"({"rope_type":"default","rope_theta":7})")));
  EXPECT_EQ(plain.ropeTheta, 7);
  EXPECT_FALSE(plain.ropeScaling);

  // The same fields under text_config.
  json::Object inner = fields();
  inner.erase("architectures");
  Llama4Config nested =
      parse(json::Object{{"architectures", json::Array{"Llama4ForConditionalGeneration"}},
                         {"model_type", "llama4"},
                         {"text_config", std::move(inner)},
                         {"eos_token_id", 5},
                         {"torch_dtype", "float16"}});
  EXPECT_EQ(nested.architecture, "Llama4ForConditionalGeneration");
  EXPECT_EQ(nested.parameters(), parse(fields()).parameters());
  EXPECT_EQ(nested.eosTokens, (std::vector<int32_t>{91, 92}));
  EXPECT_EQ(nested.dtype, Storage::BF16);
}

TEST(Config, RefusesOtherModels) {
  EXPECT_EQ(refusal("architectures", R"(["LlamaForCausalLM"])"),
            "config.json: the architecture LlamaForCausalLM is not supported, expected "
            "Llama4ForCausalLM or Llama4ForConditionalGeneration");
  EXPECT_TRUE(contains(refusal("architectures", "3"), "architectures is 3, expected a list"));
  EXPECT_TRUE(contains(refusal("architectures", "[]"), "architectures is [], expected a list"));
  EXPECT_TRUE(contains(refusal("model_type", "\"llama\""),
                       "model_type is \"llama\", but architectures says Llama4ForCausalLM"));
  EXPECT_TRUE(contains(refusal(json::Object{}), "architectures is missing, expected"));
  EXPECT_TRUE(contains(refusal("architectures", R"(["Llama4ForConditionalGeneration"])"),
                       "text_config is missing"));
  EXPECT_TRUE(contains(refusal("text_config", "[]"), "text_config is [], expected an object"));
  EXPECT_EQ(refusal("quantization_config", R"({"quant_method":"fbgemm_fp8"})"), "success");
  EXPECT_TRUE(contains(refusal("quantization_config", R"({"quant_method":"hqq"})"),
                       "config.json: quantization_config says that the checkpoint is quantized as "
                       "HQQ, which is not supported"));
  EXPECT_TRUE(contains(refusal("quantization_config", "{}"), "names no quant_method"));
  EXPECT_TRUE(contains(refusal("quantization_config", "3"), "is 3, expected an object"));
  EXPECT_TRUE(contains(refusal("compression_config", R"({"quant_method":"compressed-tensors"})"),
                       "compression_config has no config_groups"));
  EXPECT_EQ(refusal("quantization_config", "null"), "success");
  EXPECT_TRUE(contains(refusal("attention_bias", "true"), "attention_bias is true"));
  EXPECT_TRUE(
      contains(refusal("hidden_act", "\"gelu\""), "hidden_act is \"gelu\", expected \"silu\""));

  std::vector<std::string> warnings;
  EXPECT_TRUE(contains(messageOf(Llama4Config::parse("{", "config.json", warnings)),
                       "config.json is not JSON"));
  EXPECT_EQ(messageOf(Llama4Config::parse("[]", "config.json", warnings)),
            "config.json is not a JSON object");
  EXPECT_EQ(messageOf(Llama4Config::parse(R"({"a":1,"a":2})", "config.json", warnings)),
            "config.json has the key \"a\" twice");
  EXPECT_TRUE(
      contains(messageOf(Llama4Config::open("/nowhere", warnings)), "there is no /nowhere"));
}

TEST(Config, RefusesWrongTypesAndSizes) {
  for (llvm::StringRef key :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim",
        "intermediate_size", "intermediate_size_mlp", "num_local_experts", "num_experts_per_tok",
        "num_key_value_heads", "max_position_embeddings", "attention_chunk_size",
        "interleave_moe_layer_step", "no_rope_layer_interval"})
    for (llvm::StringRef value : {"\"64\"", "0", "-4", "1e30", "9223372036854775807", "2.5", "true",
                                  "[]", "18446744073709551615"})
      EXPECT_TRUE(contains(refusal(key, value), (key + " is ").str())) << value.str();
  EXPECT_EQ(refusal("hidden_size", "\"5120\""),
            "config.json: hidden_size is \"5120\", expected an integer from 1 to 131072");
  for (llvm::StringRef key : {"rms_norm_eps", "rope_theta", "attn_scale", "floor_scale"})
    for (llvm::StringRef value : {"\"1\"", "0", "-1", "1e300", "1e-300", "true", "[]"})
      EXPECT_TRUE(contains(refusal(key, value), (key + " is ").str())) << value.str();
  for (llvm::StringRef key : {"use_qk_norm", "tie_word_embeddings", "attention_bias"})
    for (llvm::StringRef value : {"1", "\"true\"", "null"})
      EXPECT_TRUE(contains(refusal(key, value), "expected true or false")) << key.str();
  for (llvm::StringRef key : {"moe_layers", "no_rope_layers", "layer_types"})
    EXPECT_TRUE(contains(refusal(key, "3"), (key + " is 3, expected a list").str()));
  EXPECT_TRUE(contains(refusal("attn_temperature_tuning", "\"on\""), "attn_temperature_tuning is"));
  EXPECT_TRUE(
      contains(refusal("torch_dtype", "\"float8\""), "torch_dtype is \"float8\", expected"));
  EXPECT_TRUE(contains(refusal("torch_dtype", "16"), "torch_dtype is 16, expected"));
  EXPECT_TRUE(contains(refusal("eos_token_id", "96"), "eos_token_id is 96, expected an integer"));
  EXPECT_TRUE(contains(refusal("eos_token_id", "[1,\"2\"]"), "eos_token_id is \"2\""));
  EXPECT_TRUE(contains(refusal("bos_token_id", "-2"), "bos_token_id is -2"));
}

TEST(Config, RefusesContradictions) {
  EXPECT_TRUE(contains(refusal("num_attention_heads", "3"),
                       "num_attention_heads is 3, which is no multiple of num_key_value_heads, 2"));
  EXPECT_TRUE(contains(refusal("num_experts_per_tok", "4"),
                       "num_experts_per_tok is 4, but num_local_experts is 3"));
  EXPECT_TRUE(contains(refusal("head_dim", "15"), "head_dim is 15, expected an even number"));
  EXPECT_TRUE(contains(refusal(with("head_dim", "null", with("hidden_size", "66"))),
                       "head_dim is null, but hidden_size, 66, is no multiple of "
                       "num_attention_heads, 4"));
  EXPECT_TRUE(contains(refusal(with("head_dim", "4096", with("num_attention_heads", "4096"))),
                       "num_attention_heads times head_dim is 16777216"));
  EXPECT_TRUE(contains(refusal("moe_layers", "[6]"), "an entry of moe_layers is 6, expected an "
                                                     "integer from 0 to 5"));
  EXPECT_TRUE(contains(refusal("moe_layers", "[-1]"), "an entry of moe_layers is -1"));
  EXPECT_TRUE(contains(refusal("no_rope_layers", "[1,1]"),
                       "no_rope_layers has 2 entries, but num_hidden_layers is 6"));
  EXPECT_TRUE(
      contains(refusal("no_rope_layers", "[1,1,1,1,1,2]"), "an entry of no_rope_layers is 2"));
  EXPECT_TRUE(contains(refusal("layer_types", R"(["full_attention"])"),
                       "layer_types has 1 entries, but num_hidden_layers is 6"));
  EXPECT_TRUE(contains(refusal("layer_types", R"(["sliding_attention","full_attention",
                       "full_attention","full_attention","full_attention","full_attention"])"),
                       "an entry of layer_types is \"sliding_attention\""));
  EXPECT_TRUE(
      contains(refusal("layer_types", R"(["full_attention","chunked_attention",
                       "full_attention","chunked_attention","full_attention","full_attention"])"),
               "layer_types says full_attention of layer 0, but no_rope_layers says that it "
               "has rope"));
  EXPECT_TRUE(
      contains(refusal("layer_types", R"(["chunked_attention","chunked_attention",
                       "chunked_attention","chunked_attention","full_attention","full_attention"])"),
               "layer_types says chunked_attention of layer 3, but no_rope_layers says that "
               "it has no rope"));

  auto scaling = [](llvm::StringRef fields) {
    return refusal("rope_scaling", (R"({"rope_type":"llama3",)" + fields + "}").str());
  };
  EXPECT_TRUE(contains(scaling(R"("factor":8,"low_freq_factor":1,"high_freq_factor":4)"),
                       "rope_scaling of type llama3 has no original_max_position_embeddings"));
  EXPECT_TRUE(contains(scaling(R"("factor":8,"low_freq_factor":4,"high_freq_factor":1,
                                  "original_max_position_embeddings":8192)"),
                       "rope_scaling.high_freq_factor is 1"));
  EXPECT_TRUE(contains(scaling(R"("factor":0.5,"low_freq_factor":1,"high_freq_factor":1,
                                  "original_max_position_embeddings":8192)"),
                       "rope_scaling.factor is 0.5"));
  EXPECT_TRUE(contains(scaling(R"("factor":8,"low_freq_factor":"1","high_freq_factor":1,
                                  "original_max_position_embeddings":8192)"),
                       "rope_scaling.low_freq_factor is \"1\", expected a positive number"));
  EXPECT_TRUE(contains(refusal("rope_scaling", R"({"rope_type":"yarn","factor":4})"),
                       "rope_scaling.rope_type is \"yarn\", expected \"llama3\" or \"default\""));
  EXPECT_TRUE(contains(refusal("rope_scaling", R"({"factor":4})"), "rope_type is missing"));
  EXPECT_TRUE(contains(refusal("rope_scaling", "4"), "rope_scaling is 4, expected an object"));
  EXPECT_TRUE(contains(refusal("rope_parameters", R"({"rope_type":"default","rope_theta":5})"),
                       "rope_theta is"));
  EXPECT_TRUE(contains(refusal(with("rope_scaling", R"({"rope_type":"default"})",
                                    with("rope_parameters",
                                         R"({"rope_type":"llama3","factor":8,"low_freq_factor":1,
                            "high_freq_factor":1,"original_max_position_embeddings":8192})"))),
                       "rope_scaling and rope_parameters contradict each other"));

  json::Object nested{{"architectures", json::Array{"Llama4ForConditionalGeneration"}},
                      {"text_config", fields()},
                      {"tie_word_embeddings", true}};
  EXPECT_TRUE(contains(refusal(std::move(nested)),
                       "tie_word_embeddings is true, but that of text_config is false"));
}

TEST(Config, WarnsOfTheFirstCopiesOfScout) {
  std::vector<std::string> warnings;
  auto config = Llama4Config::parse(
      text(with("rope_scaling", R"({"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,
           "high_freq_factor":4.0,"original_max_position_embeddings":8192})")),
      "config.json", warnings);
  ASSERT_TRUE(bool(config)) << llvm::toString(config.takeError());
  EXPECT_EQ(config->ropeScaling->factor, 8);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_TRUE(contains(warnings[0], "factor 8"));
}

TEST(Config, ReadsTokens) {
  EXPECT_EQ(parse(with("eos_token_id", "7")).eosTokens, std::vector<int32_t>{7});
  EXPECT_TRUE(parse(with("eos_token_id", "null")).eosTokens.empty());
  EXPECT_EQ(parse(with("pad_token_id", "-1")).padToken, -1);
  EXPECT_EQ(parse(with("pad_token_id", "null")).padToken, -1);

  // generation_config.json says where generation stops.
  TempFolder folder;
  std::vector<std::string> warnings;
  folder.write("config.json", text(with("eos_token_id", "7")));
  auto open = [&] { return Llama4Config::open(folder.str(), warnings); };
  EXPECT_EQ(llvm::cantFail(open()).eosTokens, std::vector<int32_t>{7});
  folder.write("generation_config.json", R"({"temperature":0.6})");
  EXPECT_EQ(llvm::cantFail(open()).eosTokens, std::vector<int32_t>{7});
  folder.write("generation_config.json", R"({"eos_token_id":[7,8]})");
  EXPECT_EQ(llvm::cantFail(open()).eosTokens, (std::vector<int32_t>{7, 8}));
  EXPECT_EQ(llvm::cantFail(Llama4Config::open(folder / "config.json", warnings)).eosTokens,
            (std::vector<int32_t>{7, 8}));
  folder.write("generation_config.json", R"({"eos_token_id":[7,800]})");
  EXPECT_TRUE(contains(messageOf(open()), "generation_config.json: eos_token_id is 800"));
}

TEST(Config, ReadsSampling) {
  TempFolder folder;
  std::vector<std::string> warnings;
  folder.write("config.json", text(fields()));
  auto open = [&](llvm::StringRef generation) {
    folder.write("generation_config.json", generation.str());
    return Llama4Config::open(folder.str(), warnings);
  };
  auto sampling = [&](llvm::StringRef generation) {
    return llvm::cantFail(open(generation)).sampling;
  };
  EXPECT_FALSE(sampling("{}"));
  EXPECT_FALSE(sampling(R"({"temperature":null,"eos_token_id":7})"));
  auto all = sampling(R"({"do_sample":true,"temperature":0.6,"top_p":0.9,"top_k":40,)"
                      R"("repetition_penalty":1.1})");
  ASSERT_TRUE(all);
  EXPECT_EQ(all->temperature, 0.6);
  EXPECT_EQ(all->topP, 0.9);
  EXPECT_EQ(all->topK, 40);
  EXPECT_EQ(all->repetitionPenalty, 1.1);
  EXPECT_EQ(sampling(R"({"temperature":0.6})")->topP, 1);
  EXPECT_EQ(sampling(R"({"do_sample":true})")->temperature, 1);
  EXPECT_EQ(sampling(R"({"do_sample":false,"temperature":0.6})")->temperature, 0);
  EXPECT_EQ(sampling(R"({"temperature":0})")->temperature, 0);

  for (auto [bad, message] : {std::pair(R"({"temperature":-1})", "temperature is -1"),
                              {R"({"temperature":"hot"})", "expected a number from 0 to 100"},
                              {R"({"top_p":0})", "expected a number above 0, at most 1"},
                              {R"({"top_p":1.1})", "top_p is"},
                              {R"({"top_k":-1})", "top_k is -1"},
                              {R"({"top_k":2.5})", "top_k is"},
                              {R"({"repetition_penalty":0})", "at most 100"},
                              {R"({"do_sample":1})", "expected true or false"}})
    EXPECT_TRUE(contains(messageOf(open(bad)), message)) << bad;
}

TEST(Config, KeepsTheFirstLayers) {
  Llama4Config config = parse(fields());
  EXPECT_EQ(messageOf(config.truncate(7)), "cannot keep 7 layers of a model that has 6");
  EXPECT_EQ(messageOf(config.truncate(0)), "cannot keep 0 layers of a model that has 6");
  EXPECT_EQ(messageOf(config.truncate(4)), "success");
  EXPECT_EQ(config.layers, 4);
  EXPECT_EQ(config.checkpointLayers, 6);
  EXPECT_EQ(config.moeLayers(), 2);
  EXPECT_EQ(config.parameters(), parse(with("num_hidden_layers", "4")).parameters());
}
