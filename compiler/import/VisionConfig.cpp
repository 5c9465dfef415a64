// Reads the vision tower's part of a configuration, and refuses by name what would give other rows
// than transformers gives.
#include "compiler/import/VisionConfig.h"
#include "compiler/import/ConfigFields.h"
#include "compiler/import/Json.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

using namespace moe;
using llvm::Twine;
namespace json = llvm::json;

// Limits far above any real tower, below which no product of sizes overflows an int64.
static constexpr int64_t kMaxLayers = 1024, kMaxHidden = 1 << 16, kMaxWidth = 1 << 18;
static constexpr int64_t kMaxHeads = 1 << 10, kMaxTile = 1 << 12, kMaxGrid = 1 << 10;
static constexpr int64_t kMaxTiles = 1 << 10;

namespace {

class VisionReader : ConfigFields {
public:
  VisionReader(llvm::StringRef file, VisionConfig &config) : ConfigFields(file), config(config) {}

  llvm::Error readTower(const json::Object &vision);
  llvm::Error readTokens(const json::Object &top, int64_t vocabSize);
  llvm::Error readPreprocessor(const json::Object &processor);

private:
  int64_t required(llvm::StringRef key, int64_t high) {
    const json::Value *value = find(key);
    if (!value) {
      fail("there is no " + key + ", which a vision tower has no usual value of");
      return 1;
    }
    return integer(key, *value, 1, high);
  }
  // Fields of which the importer knows one value.
  void requireTrue(llvm::StringRef key, const Twine &why) {
    if (!boolean(key, true))
      fail(key + " is false, expected true: " + why);
  }
  void requireFalse(llvm::StringRef key, const Twine &why) {
    if (boolean(key, false))
      fail(key + " is true, expected false: " + why);
  }
  void readChannels(llvm::StringRef key, std::array<double, 3> &values, bool positiveOnly);
  void readSize(llvm::StringRef key, const json::Value &value);
  llvm::Error finish() {
    if (!error.empty())
      error += " (--no-vision leaves pictures out)";
    return takeError();
  }

  VisionConfig &config;
};

} // namespace

llvm::Error VisionReader::readTower(const json::Object &vision) {
  fields = &vision;
  config.hiddenSize = required("hidden_size", kMaxHidden);
  config.layers = config.checkpointLayers = required("num_hidden_layers", kMaxLayers);
  config.heads = required("num_attention_heads", kMaxHeads);
  config.mlpWidth = required("intermediate_size", kMaxWidth);
  config.tileSize = required("image_size", kMaxTile);
  config.patchSize = required("patch_size", kMaxTile);
  config.adapterWidth = required("projector_output_dim", kMaxWidth);

  if (config.hiddenSize % config.heads || config.hiddenSize / config.heads % 4)
    fail("hidden_size is " + Twine(config.hiddenSize) + " and num_attention_heads " +
         Twine(config.heads) +
         ", expected heads of a multiple of 4 channels: pairs for rows and for columns");
  if (config.tileSize % config.patchSize || config.grid() % 2 || config.grid() > kMaxGrid)
    fail("image_size is " + Twine(config.tileSize) + " and patch_size " + Twine(config.patchSize) +
         ", expected an even number of patches in a row, at most " + Twine(kMaxGrid));
  if (std::optional<double> ratio = vision.getNumber("pixel_shuffle_ratio"); ratio != 0.5)
    fail("pixel_shuffle_ratio is " +
         (find("pixel_shuffle_ratio") ? shown(*find("pixel_shuffle_ratio")) : "missing") +
         ", expected 0.5: four patches become one row");
  if (config.mlpWidth != 4 * config.hiddenSize)
    fail("intermediate_size is " + Twine(config.mlpWidth) + ", expected four times hidden_size, " +
         Twine(4 * config.hiddenSize) + ", which is what the adapter takes");
  for (llvm::StringRef key : {"projector_input_dim", "vision_output_dim"})
    if (int64_t width = required(key, kMaxWidth); width != config.adapterWidth)
      fail(key + " is " + Twine(width) + ", but projector_output_dim is " +
           Twine(config.adapterWidth));
  if (integer("num_channels", 3, 1, 3) != 3)
    fail("num_channels is not 3: pictures are red, green and blue");
  if (const json::Value *value = find("hidden_act"))
    if (value->getAsString() != llvm::StringRef("gelu"))
      failType("hidden_act", *value, "\"gelu\"");
  requireFalse("multi_modal_projector_bias", "released models have none");

  // The rope of newer files is an object of its own.
  const json::Value *theta = find("rope_theta");
  if (const json::Value *rope = find("rope_parameters"); rope && !theta) {
    const json::Object *inner = rope->getAsObject();
    if (inner && inner->getString("rope_type").value_or("default") == "default")
      theta = inner->get("rope_theta");
    else
      failType("rope_parameters", *rope, "an object of rope_type \"default\"");
  }
  if (!theta)
    fail("there is no rope_theta, which a vision tower has no usual value of");
  else
    config.ropeTheta = positive("rope_theta", *theta);
  return finish();
}

llvm::Error VisionReader::readTokens(const json::Object &top, int64_t vocabSize) {
  fields = &top;
  PictureTokens &tokens = config.tokens;
  auto token = [&](llvm::StringRef name, int32_t published) {
    // The published ids are the defaults of transformers.
    for (llvm::StringRef end : {"_index", "_id"})
      if (const json::Value *value = find((name + end).str()))
        return int32_t(integer((name + end).str(), *value, 0, vocabSize - 1));
    if (published >= vocabSize)
      fail("there is no " + name + "_index, and that of Llama 4, " + Twine(published) +
           ", is beyond a vocabulary of " + Twine(vocabSize));
    return published;
  };
  tokens.imageStart = token("boi_token", 200080);
  tokens.imageEnd = token("eoi_token", 200081);
  tokens.patch = token("image_token", 200092); // not <|image|>
  if (tokens.imageStart == tokens.imageEnd || tokens.imageStart == tokens.patch ||
      tokens.imageEnd == tokens.patch)
    fail("boi_token_index, eoi_token_index and image_token_index are " + Twine(tokens.imageStart) +
         ", " + Twine(tokens.imageEnd) + " and " + Twine(tokens.patch) +
         ", expected three different tokens");
  // Other tokens have no fields: they are those of the tokenizer, or of the published vocabulary.
  if (tokens.imageStart == 200080 && tokens.imageEnd == 200081 && tokens.patch == 200092)
    tokens.tileXSeparator = 200084, tokens.tileYSeparator = 200085, tokens.image = 200090;
  return finish();
}

void VisionReader::readChannels(llvm::StringRef key, std::array<double, 3> &values,
                                bool positiveOnly) {
  const json::Array *list = array(key, "three numbers");
  if (!list)
    return;
  if (list->size() != 3)
    return failType(key, *find(key), "three numbers");
  for (size_t i = 0; i < 3; ++i) {
    std::optional<double> number = (*list)[i].getAsNumber();
    if (!number || !std::isfinite(float(*number)) || (positiveOnly && !(float(*number) > 0)))
      return failType(key, *find(key), positiveOnly ? "three positive numbers" : "three numbers");
    values[i] = *number;
  }
}

void VisionReader::readSize(llvm::StringRef key, const json::Value &value) {
  const json::Object *size = value.getAsObject();
  std::optional<int64_t> height = size ? size->getInteger("height") : value.getAsInteger(),
                         width = size ? size->getInteger("width") : value.getAsInteger();
  if (height != config.tileSize || width != config.tileSize)
    failType(key, value,
             "tiles of " + Twine(config.tileSize) + " by " + Twine(config.tileSize) +
                 " pixels, as image_size of vision_config says");
}

llvm::Error VisionReader::readPreprocessor(const json::Object &processor) {
  fields = &processor;
  if (const json::Value *type = find("image_processor_type"))
    if (type->getAsString() != llvm::StringRef("Llama4ImageProcessor") &&
        type->getAsString() != llvm::StringRef("Llama4ImageProcessorFast"))
      failType("image_processor_type", *type, "\"Llama4ImageProcessorFast\"");
  if (const json::Value *size = find("size"))
    readSize("size", *size);
  config.maxTiles = integer("max_patches", config.maxTiles, 1, kMaxTiles);
  requireFalse("resize_to_max_canvas", "pictures are enlarged as little as possible");
  requireTrue("do_resize", "pictures are resized to whole tiles");
  requireTrue("do_rescale", "the tower sees numbers, not bytes");
  requireTrue("do_normalize", "the tower sees numbers around zero");
  if (const json::Value *resample = find("resample"))
    if (resample->getAsInteger() != 2)
      failType("resample", *resample, "2, which is bilinear");
  config.rescale = positive("rescale_factor", config.rescale);
  readChannels("image_mean", config.mean, /*positiveOnly=*/false);
  readChannels("image_std", config.std, /*positiveOnly=*/true);
  return finish();
}

//===----------------------------------------------------------------------===//
// VisionConfig
//===----------------------------------------------------------------------===//

llvm::Expected<VisionConfig> VisionConfig::parse(const json::Object &vision,
                                                 const json::Object &top, int64_t vocabSize) {
  VisionConfig config;
  if (llvm::Error error = VisionReader("vision_config", config).readTower(vision))
    return error;
  VisionReader tokens("tokens of pictures", config);
  if (llvm::Error error = tokens.readTokens(top, vocabSize))
    return error;
  return config;
}

llvm::Error VisionConfig::readPreprocessor(llvm::StringRef folder) {
  for (auto [name, key] : {std::pair("preprocessor_config.json", ""),
                           std::pair("processor_config.json", "image_processor")}) {
    llvm::SmallString<128> file = folder;
    llvm::sys::path::append(file, name);
    if (!llvm::sys::fs::exists(file))
      continue;
    llvm::Expected<json::Value> value = readJson(file);
    if (!value)
      return value.takeError();
    const json::Object *fields = value->getAsObject();
    if (!fields)
      return llvm::createStringError(file + " is not a JSON object");
    if (llvm::StringRef(key).empty())
      return VisionReader(file, *this).readPreprocessor(*fields);
    if (const json::Object *inner = fields->getObject(key))
      return VisionReader(file, *this).readPreprocessor(*inner);
  }
  return llvm::Error::success();
}

uint64_t VisionConfig::parameters(int64_t textHiddenSize) const {
  const int64_t h = hiddenSize, f = mlpWidth, a = adapterWidth;
  const int64_t layer = 4 * (h * h + h) + (f * h + f) + (h * f + h) + 4 * h;
  const int64_t embedding = h * 3 * patchSize * patchSize + h + (grid() * grid() + 1) * h;
  return uint64_t(embedding + 4 * h + layers * layer + f * a + a * a + a * textHiddenSize);
}
