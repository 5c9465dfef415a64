// Reads config.json as transformers does, defaults included, but refuses what contradicts itself or
// what this compiler would get wrong.
#include "compiler/import/Config.h"
#include "compiler/import/ConfigFields.h"
#include "compiler/import/Json.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Path.h"

#include <cmath>
#include <limits>

using namespace moe;
namespace json = llvm::json;

// Limits far above any real model, below which no product of sizes overflows an int64.
static constexpr int64_t kMaxLayers = 1024, kMaxHidden = 1 << 17, kMaxWidth = 1 << 19;
static constexpr int64_t kMaxExperts = 1 << 13, kMaxHeads = 1 << 12, kMaxHeadDim = 1 << 12;
static constexpr int64_t kMaxVocab = 1 << 24, kMaxPositions = 1 << 30;

namespace moe {

// The fields of the text model are those that are read.
class ConfigReader : public ConfigFields {
public:
  ConfigReader(llvm::StringRef file, std::vector<std::string> &warnings)
      : ConfigFields(file), warnings(warnings) {}

  llvm::Expected<Llama4Config> read(const json::Object &top, bool vision);
  void readEos(const json::Value &value);
  void readGeneration(const json::Object &generation);

  Llama4Config config;

private:
  void readArchitecture(const json::Object &top);
  void readQuantization(const json::Object &top);
  void readSizes();
  void readLayers();
  void readRope();
  void readTokens(const json::Object &top);
  void readDtype(const json::Object &top);
  void readVision(const json::Object &top);

  std::vector<std::string> &warnings;
};

} // namespace moe

//===----------------------------------------------------------------------===//
// The rules
//===----------------------------------------------------------------------===//

void ConfigReader::readArchitecture(const json::Object &top) {
  const char *supported = "expected Llama4ForCausalLM or Llama4ForConditionalGeneration";
  std::string type = top.getString("model_type").value_or("").str();
  if (const json::Value *value = top.get("architectures");
      value && value->kind() != json::Value::Null) {
    const json::Array *names = value->getAsArray();
    if (!names || names->size() != 1 || !(*names)[0].getAsString())
      return failType("architectures", *value, "a list of one name");
    config.architecture = (*names)[0].getAsString()->str();
    if (config.architecture != "Llama4ForCausalLM" &&
        config.architecture != "Llama4ForConditionalGeneration")
      return fail("the architecture " + config.architecture + " is not supported, " + supported);
  } else if (type == "llama4" || type == "llama4_text") {
    config.architecture = type == "llama4" ? "Llama4ForConditionalGeneration" : "Llama4ForCausalLM";
  } else {
    return fail(llvm::Twine("architectures is missing, ") + supported);
  }
  if (!type.empty() && type != "llama4" && type != "llama4_text")
    return fail("model_type is \"" + type + "\", but architectures says " + config.architecture);

  fields = &top;
  if (const json::Value *nested = top.get("text_config")) {
    fields = nested->getAsObject();
    if (!fields) {
      fields = &top;
      return failType("text_config", *nested, "an object");
    }
  } else if (config.architecture == "Llama4ForConditionalGeneration") {
    return fail("text_config is missing, which Llama4ForConditionalGeneration has");
  }
}

void ConfigReader::readQuantization(const json::Object &top) {
  for (const json::Object *object : {&top, fields})
    for (llvm::StringRef key : {"quantization_config", "compression_config"}) {
      const json::Value *value = object->get(key);
      if (!value || value->kind() == json::Value::Null || config.quantization)
        continue;
      const json::Object *method = value->getAsObject();
      if (!method)
        return failType(key, *value, "an object");
      auto quantization = QuantizationConfig::parse(*method, key);
      if (!quantization)
        return fail(llvm::toString(quantization.takeError()));
      config.quantization = std::move(*quantization);
    }
}

void ConfigReader::readSizes() {
  config.vocabSize = integer("vocab_size", 202048, 1, kMaxVocab);
  config.hiddenSize = integer("hidden_size", 5120, 1, kMaxHidden);
  config.layers = config.checkpointLayers = integer("num_hidden_layers", 48, 1, kMaxLayers);
  config.expertWidth = integer("intermediate_size", 8192, 1, kMaxWidth);
  config.denseWidth = integer("intermediate_size_mlp", 16384, 1, kMaxWidth);
  config.experts = integer("num_local_experts", 16, 1, kMaxExperts);
  config.expertsPerToken = integer("num_experts_per_tok", 1, 1, kMaxExperts);
  config.maxPositions = integer("max_position_embeddings", 131072, 1, kMaxPositions);
  if (config.expertsPerToken > config.experts)
    fail("num_experts_per_tok is " + llvm::Twine(config.expertsPerToken) +
         ", but num_local_experts is " + llvm::Twine(config.experts));

  config.heads = integer("num_attention_heads", 40, 1, kMaxHeads);
  config.kvHeads = 8;
  if (const json::Value *value = fields->get("num_key_value_heads"))
    config.kvHeads = value->kind() == json::Value::Null
                         ? config.heads
                         : integer("num_key_value_heads", *value, 1, kMaxHeads);
  if (config.heads % config.kvHeads)
    fail("num_attention_heads is " + llvm::Twine(config.heads) +
         ", which is no multiple of num_key_value_heads, " + llvm::Twine(config.kvHeads));

  config.headDim = 128;
  if (const json::Value *value = fields->get("head_dim")) {
    if (value->kind() != json::Value::Null) {
      config.headDim = integer("head_dim", *value, 1, kMaxHeadDim);
    } else {
      config.headDim = config.hiddenSize / config.heads;
      if (config.hiddenSize % config.heads)
        fail("head_dim is null, but hidden_size, " + llvm::Twine(config.hiddenSize) +
             ", is no multiple of num_attention_heads, " + llvm::Twine(config.heads));
    }
  }
  if (config.headDim % 2)
    fail("head_dim is " + llvm::Twine(config.headDim) +
         ", expected an even number: rope rotates pairs of channels");
  if (config.heads * config.headDim > kMaxWidth)
    fail("num_attention_heads times head_dim is " + llvm::Twine(config.heads * config.headDim) +
         ", expected at most " + llvm::Twine(kMaxWidth));

  config.normEps = positive("rms_norm_eps", 1e-5);
  if (boolean("attention_bias", false))
    fail("attention_bias is true, which this version does not support: released models have none");
  if (const json::Value *value = fields->get("hidden_act"))
    if (value->getAsString() != llvm::StringRef("silu"))
      failType("hidden_act", *value, "\"silu\"");
}

void ConfigReader::readLayers() {
  size_t layers = size_t(config.layers);

  // moe_layers wins over the step; an empty list means no layer, not "derive".
  config.moe.assign(layers, false);
  if (const json::Array *list = array("moe_layers", "layers")) {
    for (const json::Value &value : *list)
      config.moe[size_t(integer("an entry of moe_layers", value, 0, config.layers - 1))] = true;
  } else {
    int64_t step = integer("interleave_moe_layer_step", 1, 1, kMaxLayers);
    for (size_t i = size_t(step) - 1; i < layers; i += size_t(step))
      config.moe[i] = true;
  }

  // An empty no_rope_layers does mean "derive". Its 1 says that the layer has rope.
  config.rope.assign(layers, true);
  const json::Array *list = array("no_rope_layers", "0 and 1");
  if (list && !list->empty()) {
    if (list->size() != layers)
      return fail("no_rope_layers has " + llvm::Twine(list->size()) +
                  " entries, but num_hidden_layers is " + llvm::Twine(layers));
    for (size_t i = 0; i < layers; ++i)
      config.rope[i] = integer("an entry of no_rope_layers", (*list)[i], 0, 1);
  } else {
    int64_t interval = integer("no_rope_layer_interval", 4, 1, kMaxLayers);
    for (size_t i = 0; i < layers; ++i)
      config.rope[i] = (i + 1) % size_t(interval) != 0;
  }

  config.attentionChunk = 8192;
  if (const json::Value *value = fields->get("attention_chunk_size")) {
    config.attentionChunk = std::nullopt;
    if (value->kind() != json::Value::Null)
      config.attentionChunk = integer("attention_chunk_size", *value, 1, kMaxPositions);
  }

  // Layers with rope are the chunked ones. Without a chunk size both types mean the same.
  if (const json::Array *types = array("layer_types", "attention types")) {
    if (types->size() != layers)
      return fail("layer_types has " + llvm::Twine(types->size()) +
                  " entries, but num_hidden_layers is " + llvm::Twine(layers));
    for (size_t i = 0; i < layers; ++i) {
      std::optional<llvm::StringRef> type = (*types)[i].getAsString();
      if (type != llvm::StringRef("chunked_attention") && type != llvm::StringRef("full_attention"))
        return failType("an entry of layer_types", (*types)[i],
                        "\"chunked_attention\" or \"full_attention\"");
      if (config.attentionChunk && (*type == "chunked_attention") != config.rope[i])
        return fail("layer_types says " + *type + " of layer " + llvm::Twine(i) +
                    ", but no_rope_layers says that it has " + (config.rope[i] ? "" : "no ") +
                    "rope; chunked layers have it, full ones do not");
    }
  }

  config.qkNorm = boolean("use_qk_norm", true);
  config.temperature = true;
  if (const json::Value *value = fields->get("attn_temperature_tuning")) {
    if (std::optional<bool> truth = value->getAsBoolean())
      config.temperature = *truth;
    else // early files have the number 4
      config.temperature = integer("attn_temperature_tuning", *value, 0, 1 << 30) != 0;
  }
  config.temperatureScale = positive("attn_scale", 0.1);
  config.temperatureFloor = positive("floor_scale", 8192);
}

void ConfigReader::readRope() {
  // The same facts have two spellings, and a file may have both as long as they agree.
  std::optional<double> theta;
  if (find("rope_theta"))
    theta = positive("rope_theta", 0);
  llvm::StringRef seen;
  for (llvm::StringRef key : {"rope_scaling", "rope_parameters"}) {
    const json::Value *value = find(key);
    if (!value)
      continue;
    const json::Object *rope = value->getAsObject();
    if (!rope)
      return failType(key, *value, "an object");
    auto field = [&](llvm::StringRef name) { return (key + "." + name).str(); };

    if (const json::Value *inner = rope->get("rope_theta")) {
      double number = positive(field("rope_theta"), *inner);
      if (theta && *theta != number)
        return fail("rope_theta is " + llvm::formatv("{0}", *theta).str() + ", but " +
                    field("rope_theta") + " is " + llvm::formatv("{0}", number).str());
      theta = number;
    }

    const json::Value *type = rope->get("rope_type");
    if (!type)
      type = rope->get("type"); // the older spelling
    std::optional<RopeScaling> scaling;
    if (type && type->getAsString() == llvm::StringRef("llama3")) {
      scaling.emplace();
      auto number = [&](llvm::StringRef name) {
        const json::Value *inner = rope->get(name);
        if (!inner) {
          fail(key + " of type llama3 has no " + name);
          return 1.0;
        }
        return positive(field(name), *inner);
      };
      scaling->factor = number("factor");
      scaling->lowFrequency = number("low_freq_factor");
      scaling->highFrequency = number("high_freq_factor");
      double positions = number("original_max_position_embeddings");
      scaling->originalPositions = int64_t(std::min(positions, double(kMaxPositions)));
      if (scaling->originalPositions != positions)
        fail(field("original_max_position_embeddings") + " is " +
             llvm::formatv("{0}", positions).str() + ", expected an integer from 1 to " +
             llvm::Twine(kMaxPositions));
      if (scaling->factor < 1)
        fail(field("factor") + " is " + llvm::formatv("{0}", scaling->factor).str() +
             ", expected 1 or more");
      if (scaling->highFrequency < scaling->lowFrequency)
        fail(field("high_freq_factor") + " is " +
             llvm::formatv("{0}", scaling->highFrequency).str() + ", but low_freq_factor is " +
             llvm::formatv("{0}", scaling->lowFrequency).str());
    } else if (type ? type->getAsString() != llvm::StringRef("default")
                    : rope->get("factor") != nullptr) {
      return fail(field("rope_type") + " is " + (type ? shown(*type) : "missing") +
                  ", expected \"llama3\" or \"default\"");
    }

    auto sameScaling = [&] {
      if (!scaling || !config.ropeScaling)
        return scaling.has_value() == config.ropeScaling.has_value();
      const RopeScaling &a = *scaling, &b = *config.ropeScaling;
      return a.factor == b.factor && a.lowFrequency == b.lowFrequency &&
             a.highFrequency == b.highFrequency && a.originalPositions == b.originalPositions;
    };
    if (!seen.empty() && !sameScaling())
      return fail(seen + " and " + key + " contradict each other");
    seen = key;
    config.ropeScaling = scaling;
  }
  config.ropeTheta = theta.value_or(500000);

  if (config.ropeScaling && config.ropeScaling->factor == 8 &&
      config.ropeScaling->highFrequency == 4)
    warnings.push_back(
        file + ": rope_scaling has factor 8 and high_freq_factor 4, as the first copies of Scout "
               "had; later ones have 16 and 1, and do better at long contexts");
}

void ConfigReader::readEos(const json::Value &value) {
  config.eosTokens.clear();
  if (value.kind() == json::Value::Null)
    return;
  auto token = [&](const json::Value &id) {
    config.eosTokens.push_back(int32_t(integer("eos_token_id", id, 0, config.vocabSize - 1)));
  };
  if (const json::Array *ids = value.getAsArray())
    llvm::for_each(*ids, token);
  else
    token(value);
}

// A file that gives a temperature means it, whether it says do_sample or leaves it out; false is
// greedy.
void ConfigReader::readGeneration(const json::Object &generation) {
  fields = &generation;
  if (const json::Value *eos = find("eos_token_id"))
    readEos(*eos);
  auto number = [&](llvm::StringRef key, double &value, bool zero, double most) {
    const json::Value *given = find(key);
    if (!given)
      return;
    std::optional<double> read = given->getAsNumber();
    if (!read || !(zero ? *read >= 0 : *read > 0) || *read > most)
      return failType(key, *given,
                      (zero ? "a number from 0 to " : "a number above 0, at most ") +
                          llvm::Twine(int64_t(most)));
    value = *read;
  };
  SamplingDefaults sampling;
  number("temperature", sampling.temperature, /*zero=*/true, 100);
  number("top_p", sampling.topP, /*zero=*/false, 1);
  number("repetition_penalty", sampling.repetitionPenalty, /*zero=*/false, 100);
  if (const json::Value *given = find("top_k"))
    sampling.topK = integer("top_k", *given, 0, std::numeric_limits<int32_t>::max());
  if (find("do_sample") && !boolean("do_sample", true))
    sampling.temperature = 0;
  for (const char *key : {"do_sample", "temperature", "top_p", "top_k", "repetition_penalty"})
    if (find(key))
      config.sampling = sampling;
}

void ConfigReader::readTokens(const json::Object &top) {
  // A token id may be in the text fields or at the top; the former win. Some files say -1 for none.
  auto find = [&](llvm::StringRef key) {
    return fields->get(key) ? fields->get(key) : top.get(key);
  };
  auto token = [&](llvm::StringRef key, int64_t missing) -> int64_t {
    const json::Value *value = find(key);
    if (!value)
      return missing < config.vocabSize ? missing : -1;
    return value->kind() == json::Value::Null ? -1 : integer(key, *value, -1, config.vocabSize - 1);
  };
  config.bosToken = token("bos_token_id", 1);
  config.padToken = token("pad_token_id", -1);
  if (const json::Value *value = find("eos_token_id"))
    readEos(*value);
  else if (config.vocabSize > 2)
    config.eosTokens = {2};
}

void ConfigReader::readVision(const json::Object &top) {
  const json::Value *value = top.get("vision_config");
  if (config.architecture != "Llama4ForConditionalGeneration" || !value ||
      value->kind() == json::Value::Null)
    return;
  const json::Object *vision = value->getAsObject();
  if (!vision)
    return failType("vision_config", *value, "an object");
  auto read = VisionConfig::parse(*vision, top, config.vocabSize);
  if (!read)
    return fail(llvm::toString(read.takeError()));
  config.vision = std::move(*read);
}

void ConfigReader::readDtype(const json::Object &top) {
  for (const json::Object *object : {fields, &top})
    for (llvm::StringRef key : {"dtype", "torch_dtype"}) {
      const json::Value *value = object->get(key);
      if (!value || value->kind() == json::Value::Null)
        continue;
      llvm::StringRef name = value->getAsString().value_or("");
      name.consume_front("torch.");
      if (name == "bfloat16" || name == "float16" || name == "float32")
        config.dtype = name == "bfloat16"  ? Storage::BF16
                       : name == "float16" ? Storage::F16
                                           : Storage::F32;
      else
        failType(key, *value, "\"bfloat16\", \"float16\" or \"float32\"");
      return;
    }
}

llvm::Expected<Llama4Config> ConfigReader::read(const json::Object &top, bool vision) {
  readArchitecture(top);
  if (!error.empty())
    return takeError();
  readQuantization(top);
  readSizes();
  if (!error.empty()) // the layers of an absurd size are not worth a list
    return takeError();
  readLayers();
  readRope();
  readTokens(top);
  readDtype(top);
  if (vision)
    readVision(top);

  config.tiedEmbeddings = boolean("tie_word_embeddings", false);
  if (const json::Value *value = top.get("tie_word_embeddings"); value && fields != &top) {
    std::optional<bool> tied = value->getAsBoolean();
    if (!tied)
      failType("tie_word_embeddings", *value, "true or false");
    else if (!fields->get("tie_word_embeddings"))
      config.tiedEmbeddings = *tied;
    else if (*tied != config.tiedEmbeddings)
      fail(llvm::Twine("tie_word_embeddings is ") + (*tied ? "true" : "false") +
           ", but that of text_config is " + (*tied ? "false" : "true"));
  }
  if (!error.empty())
    return takeError();
  return std::move(config);
}

llvm::Expected<Llama4Config> Llama4Config::parse(llvm::StringRef text, llvm::StringRef name,
                                                 std::vector<std::string> &warnings, bool vision) {
  llvm::Expected<json::Value> value = parseJson(text, name);
  if (!value)
    return value.takeError();
  const json::Object *top = value->getAsObject();
  if (!top)
    return llvm::createStringError(name + " is not a JSON object");
  return ConfigReader(name, warnings).read(*top, vision);
}

llvm::Expected<Llama4Config> Llama4Config::open(llvm::StringRef path,
                                                std::vector<std::string> &warnings, bool vision) {
  namespace fs = llvm::sys::fs;
  llvm::SmallString<128> file = path;
  if (fs::is_directory(path))
    llvm::sys::path::append(file, "config.json");
  if (!fs::exists(file))
    return llvm::createStringError("there is no " + file +
                                   ", which says what model the checkpoint holds");
  llvm::Expected<json::Value> value = readJson(file);
  if (!value)
    return value.takeError();
  if (!value->getAsObject())
    return llvm::createStringError(file + " is not a JSON object");
  llvm::Expected<Llama4Config> config =
      ConfigReader(file, warnings).read(*value->getAsObject(), vision);
  if (!config)
    return config;
  if (config->vision)
    if (llvm::Error error = config->vision->readPreprocessor(llvm::sys::path::parent_path(file)))
      return error;

  // ModelOpt's own file, which is all that its older versions wrote.
  llvm::SmallString<128> modelOpt = llvm::sys::path::parent_path(file);
  llvm::sys::path::append(modelOpt, "hf_quant_config.json");
  if (!config->quantization && fs::exists(modelOpt)) {
    llvm::Expected<json::Value> fields = readJson(modelOpt);
    if (!fields)
      return fields.takeError();
    if (!fields->getAsObject())
      return llvm::createStringError(modelOpt + " is not a JSON object");
    auto quantization = QuantizationConfig::parse(*fields->getAsObject(), modelOpt);
    if (!quantization)
      return quantization.takeError();
    config->quantization = std::move(*quantization);
  }

  llvm::SmallString<128> generation = llvm::sys::path::parent_path(file);
  llvm::sys::path::append(generation, "generation_config.json");
  if (!fs::exists(generation))
    return config;
  llvm::Expected<json::Value> fields = readJson(generation);
  if (!fields)
    return fields.takeError();
  const json::Object *object = fields->getAsObject();
  if (!object)
    return config;
  ConfigReader reader(generation, warnings);
  reader.config = std::move(*config);
  reader.readGeneration(*object);
  if (llvm::Error error = reader.takeError())
    return error;
  return std::move(reader.config);
}

//===----------------------------------------------------------------------===//
// What follows from it
//===----------------------------------------------------------------------===//

int64_t Llama4Config::moeLayers() const { return llvm::count(moe, true); }

// The weights of a model that has `experts` routed experts in a layer, but for the embedding.
static uint64_t countWeights(const Llama4Config &config, int64_t experts) {
  int64_t d = config.hiddenSize, routing = config.moeLayers();
  int64_t attention = 2 * d * config.headDim * (config.heads + config.kvHeads);
  int64_t count = config.layers * (attention + 2 * d) + d; // with the norms
  count += routing * (config.experts * d + (experts + 1) * 3 * d * config.expertWidth);
  count += (config.layers - routing) * 3 * d * config.denseWidth;
  return uint64_t(count);
}

uint64_t Llama4Config::parameters() const {
  uint64_t table = uint64_t(vocabSize) * uint64_t(hiddenSize);
  return countWeights(*this, experts) + (tiedEmbeddings ? table : 2 * table) +
         (vision ? vision->parameters(hiddenSize) : 0);
}

uint64_t Llama4Config::activeParameters() const {
  return countWeights(*this, expertsPerToken) + uint64_t(vocabSize + 1) * uint64_t(hiddenSize);
}

llvm::Error Llama4Config::truncate(int64_t count) {
  if (count < 1 || count > layers)
    return llvm::createStringError("cannot keep " + llvm::Twine(count) +
                                   " layers of a model that has " + llvm::Twine(layers));
  layers = count;
  rope.resize(size_t(count));
  moe.resize(size_t(count));
  if (vision)
    vision->layers = std::min(vision->layers, count);
  return llvm::Error::success();
}
