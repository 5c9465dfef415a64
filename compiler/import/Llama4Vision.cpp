// The vision tower, top to bottom: the layers in the order of their math.
//
// Shapes: N tiles, g x g patches of a tile, P = g * g + 1 rows of a tile in the tower (its patches,
// then its class row), C channels, A of the adapter, D of the text model.
#include "compiler/import/Llama4Vision.h"
#include "dialects/moe/MoeOps.h"

using namespace moe;
using namespace mlir;
using llvm::Twine;

// What precedes the tower's names in checkpoints of multimodal models, and in re-exports of these.
static constexpr StringRef kTowers[] = {"vision_model.", "model.vision_model.", "vision_tower.",
                                        "model.vision_tower."};
static constexpr StringRef kProjectors[] = {"multi_modal_projector.",
                                            "model.multi_modal_projector."};

// The tower's, of a checkpoint that has one.
static StringRef towerOf(const TensorSource &tensors) {
  for (StringRef prefix : kTowers)
    if (tensors.find((prefix + "patch_embedding.linear.weight").str()))
      return prefix;
  return kTowers[0];
}

static bool startsWithOneOf(StringRef name, ArrayRef<StringRef> prefixes) {
  return llvm::any_of(prefixes, [&](StringRef prefix) { return name.starts_with(prefix); });
}

bool moe::hasVisionTower(const TensorSource &tensors) {
  return llvm::any_of(tensors.tensors(), [](const TensorInfo &tensor) {
    return startsWithOneOf(tensor.name, kTowers) || startsWithOneOf(tensor.name, kProjectors);
  });
}

llvm::Error moe::checkVisionTensors(const TensorSource &tensors) {
  const std::string old = (towerOf(tensors) + "positional_embedding").str();
  if (tensors.find(old) && !tensors.find(old + "_vlm"))
    return llvm::createStringError(
        "the checkpoint has the tensor " + old + " and no " + old +
        "_vlm: the tower was not trained on tiles with it, and resampling it would only guess; use "
        "a "
        "checkpoint with the latter, or leave pictures out with --no-vision");
  return llvm::Error::success();
}

//===----------------------------------------------------------------------===//
// The tower
//===----------------------------------------------------------------------===//

namespace {

class VisionImporter {
public:
  VisionImporter(ModuleBuilder &module, const VisionConfig &config)
      : module(module), config(config), tower(towerOf(module.tensors)),
        heads(integer(config.heads)), grid(integer(config.grid())) {}

  Value import(int64_t outputs, Value tiles);

private:
  Value embedded(Value tiles);
  Value attention(const std::string &name, const std::string &tensor, Value x);
  Value mlp(const std::string &name, const std::string &tensor, Value x);

  Value norm(const Twine &name, const Twine &tensor, Value x);
  Value linear(const Twine &name, const Twine &tensor, int64_t outputs, Value x);
  Value linearBias(const Twine &name, const Twine &tensor, int64_t outputs, Value x);

  template <typename Op, typename... Args> Value make(int64_t channels, Args &&...args) {
    return module.make<Op>(channels, std::forward<Args>(args)...);
  }
  IntegerAttr integer(int64_t value) { return module.builder.getI64IntegerAttr(value); }
  FloatAttr number(double value) { return module.builder.getF32FloatAttr(float(value)); }

  ModuleBuilder &module;
  const VisionConfig &config;
  const StringRef tower; // what precedes the names of its tensors
  const IntegerAttr heads, grid;
};

} // namespace

Value VisionImporter::import(int64_t outputs, Value tiles) {
  const int64_t c = config.hiddenSize;
  Value h = embedded(tiles); // [N * P, C]
  for (int64_t i = 0; i < config.layers; ++i) {
    const std::string name = "vision.layers." + std::to_string(i) + ".",
                      tensor = (tower + "model.layers." + Twine(i) + ".").str();
    module.location = NameLoc::get(module.builder.getStringAttr(StringRef(name).drop_back()));
    Value x = norm(name + "attention_norm", tensor + "input_layernorm", h);
    h = make<AddOp>(c, h, attention(name, tensor + "self_attn.", x));
    x = norm(name + "mlp_norm", tensor + "post_attention_layernorm", h);
    h = make<AddOp>(c, h, mlp(name, tensor + "mlp.", x));
  }
  module.location = module.builder.getUnknownLoc();

  h = norm("vision.output_norm", tower + "layernorm_post", h);
  h = make<DropClassOp>(c, h, grid);        // [N * g * g, C]
  h = make<PixelShuffleOp>(4 * c, h, grid); // [N * g * g / 4, 4 C]
  const int64_t a = config.adapterWidth;    // the adapter ends in a GELU of its own
  h = make<GeluOp>(a, linear("vision.adapter.fc1", tower + "vision_adapter.mlp.fc1", a, h));
  h = make<GeluOp>(a, linear("vision.adapter.fc2", tower + "vision_adapter.mlp.fc2", a, h));
  StringRef projector = kProjectors[0];
  for (StringRef prefix : kProjectors)
    if (module.tensors.find((prefix + "linear_1.weight").str()))
      projector = prefix;
  return linear("vision.projector", projector + "linear_1", outputs, h);
}

Value VisionImporter::embedded(Value tiles) {
  const int64_t c = config.hiddenSize, rows = config.grid() * config.grid() + 1;
  auto floats = [&](const std::array<double, 3> &values) {
    return module.builder.getDenseF32ArrayAttr(
        {float(values[0]), float(values[1]), float(values[2])});
  };
  Value h =
      make<PatchesOp>(3 * config.patchSize * config.patchSize, tiles, integer(config.patchSize),
                      number(config.rescale), floats(config.mean), floats(config.std));
  h = linear("vision.patch_embedding", tower + "patch_embedding.linear", c, h);
  Value row = module.weight("vision.class", tower + "class_embedding", {c});
  h = make<AppendClassOp>(c, h, row, grid);
  Value positions =
      module.weight("vision.positions", tower + "positional_embedding_vlm", {rows, c});
  h = make<AddPositionsOp>(c, h, positions);
  return norm("vision.input_norm", tower + "layernorm_pre", h);
}

Value VisionImporter::attention(const std::string &name, const std::string &tensor, Value x) {
  const int64_t c = config.hiddenSize;
  Value q = linearBias(name + "q", tensor + "q_proj", c, x);
  Value k = linearBias(name + "k", tensor + "k_proj", c, x);
  Value v = linearBias(name + "v", tensor + "v_proj", c, x);
  q = make<PatchRopeOp>(c, q, heads, grid, number(config.ropeTheta));
  k = make<PatchRopeOp>(c, k, heads, grid, number(config.ropeTheta));
  return linearBias(name + "o", tensor + "o_proj", c,
                    make<TileAttentionOp>(c, q, k, v, heads, grid));
}

Value VisionImporter::mlp(const std::string &name, const std::string &tensor, Value x) {
  Value y = linearBias(name + "fc1", tensor + "fc1", config.mlpWidth, x);
  y = make<GeluOp>(config.mlpWidth, y);
  return linearBias(name + "fc2", tensor + "fc2", config.hiddenSize, y);
}

Value VisionImporter::norm(const Twine &name, const Twine &tensor, Value x) {
  const int64_t c = config.hiddenSize;
  Value weight = module.weight(name, tensor + ".weight", {c}),
        bias = module.weight(name + "_bias", tensor + ".bias", {c});
  return make<LayerNormOp>(c, x, weight, bias, number(VisionConfig::kNormEps));
}

Value VisionImporter::linear(const Twine &name, const Twine &tensor, int64_t outputs, Value x) {
  Value weight = module.weight(name, tensor + ".weight", {outputs, ModuleBuilder::channels(x)});
  return make<LinearOp>(outputs, x, weight);
}

Value VisionImporter::linearBias(const Twine &name, const Twine &tensor, int64_t outputs, Value x) {
  Value weight = module.weight(name, tensor + ".weight", {outputs, ModuleBuilder::channels(x)}),
        bias = module.weight(name + "_bias", tensor + ".bias", {outputs});
  return make<LinearBiasOp>(outputs, x, weight, bias);
}

Value moe::importVision(ModuleBuilder &module, const VisionConfig &config, int64_t outputs,
                        Value tiles) {
  return VisionImporter(module, config).import(outputs, tiles);
}

//===----------------------------------------------------------------------===//
// Facts
//===----------------------------------------------------------------------===//

DictionaryAttr moe::visionFacts(const VisionConfig &config, Builder &builder) {
  SmallVector<NamedAttribute> fields;
  auto integer = [&](StringRef name, int64_t value) {
    fields.push_back(builder.getNamedAttr(name, builder.getI64IntegerAttr(value)));
  };
  integer("tile_size", config.tileSize);
  integer("patch_size", config.patchSize);
  integer("rows_per_tile", config.rowsPerTile());
  integer("max_tiles", config.maxTiles);
  integer("image_start", config.tokens.imageStart);
  integer("image_end", config.tokens.imageEnd);
  integer("tile_x_separator", config.tokens.tileXSeparator);
  integer("tile_y_separator", config.tokens.tileYSeparator);
  integer("image", config.tokens.image);
  integer("patch", config.tokens.patch);
  return builder.getDictionaryAttr(fields);
}

std::optional<std::string> moe::reasonToIgnoreOfVision(StringRef name,
                                                       const std::optional<VisionConfig> &config) {
  if (!config) {
    if (startsWithOneOf(name, kTowers))
      return "vision tower, of a plan that sees no pictures";
    if (startsWithOneOf(name, kProjectors))
      return "projector of the vision tower, of a plan that sees no pictures";
    return std::nullopt;
  }
  for (StringRef tower : kTowers) {
    StringRef layer = name;
    int64_t number;
    if (layer.consume_front(tower) && layer.consume_front("model.layers.") &&
        !layer.consumeInteger(10, number) && layer.starts_with(".") && number >= config->layers &&
        number < config->checkpointLayers)
      return ("beyond --layers " + Twine(config->layers)).str();
  }
  return std::nullopt;
}
