// Llama 4, top to bottom: the layers in the order of their math, the weights that a checkpoint has
// for them, and the facts of the model.
//
// Shapes: T tokens, D hidden, H query heads, G key-value heads, d head dimension, E routed experts,
// I width of an expert, V vocabulary.
#include "compiler/import/Llama4.h"
#include "compiler/import/Llama4Vision.h"
#include "dialects/moe/MoeOps.h"
#include "dialects/moe/MoeReference.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Verifier.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"

using namespace moe;
using namespace mlir;
using llvm::Twine;

namespace {

// Where the experts of a layer are stored.
enum class ExpertLayout {
  Fused,      // experts.gate_up_proj [E, D, 2I], experts.down_proj [E, I, D]: inputs first
  Separate,   // experts.0.gate_proj.weight [I, D]
  Linearized, // experts.gate_projs.0.weight [I, D]
  Stacked,    // experts.gate_proj.weight [E, I, D]
};

//===----------------------------------------------------------------------===//
// The model
//===----------------------------------------------------------------------===//

class Importer : ModuleBuilder {
public:
  Importer(MLIRContext &context, const Llama4Config &config, const TensorSource &tensors,
           ImportOptions options)
      : ModuleBuilder(context, tensors), config(config), options(options) {}

  llvm::Expected<ImportedModel> import();

private:
  void findNames();
  DictionaryAttr facts();

  // A function at the end of the module, and what it returns of its arguments.
  void function(ModuleOp module, StringRef name, ArrayRef<Type> inputs, ArrayRef<Type> results,
                llvm::function_ref<SmallVector<Value>(ValueRange)> fill);

  SmallVector<Value> step(ValueRange inputs);
  Value attention(int64_t layer, Value x);
  Value experts(int64_t layer, Value x);
  Value mlp(const Twine &name, const Twine &tensor, int64_t width, Value x);

  Value norm(const Twine &name, const Twine &tensor, Value x);
  Value linear(const Twine &name, const Twine &tensor, int64_t outputs, Value x);
  Value expertWeight(int64_t layer, StringRef which);

  const Llama4Config &config;
  ImportOptions options;
  std::string body; // what precedes "layers." and "embed_tokens." in the checkpoint
  std::string head; // the name of the head's tensor
  Value positions, sequences, ropeTable;
};

} // namespace

SmallVector<Value> Importer::step(ValueRange inputs) {
  Value tokens = inputs[0], rows = inputs[3];
  positions = inputs[1];
  sequences = inputs[2];

  Value table =
      weight("embedding", body + "embed_tokens.weight", {config.vocabSize, config.hiddenSize});
  Value images, imageRows;
  if (config.vision)
    images = inputs[4], imageRows = inputs[5];
  Value h = make<EmbedOp>(config.hiddenSize, tokens, table, images, imageRows);

  // One table serves all layers: the frequencies are those of the model.
  std::optional<reference::RopeScaling> scaling;
  if (const auto &given = config.ropeScaling)
    scaling = {float(given->factor), float(given->lowFrequency), float(given->highFrequency),
               float(given->originalPositions)};
  if (llvm::any_of(llvm::seq(config.layers), [&](int64_t i) { return config.usesRope(i); }))
    ropeTable = make<RopeTableOp>(
        config.headDim, positions,
        reference::ropeFrequencies(float(config.ropeTheta), config.headDim, scaling));

  for (int64_t i = 0; i < config.layers; ++i) {
    std::string layer = "layers." + std::to_string(i) + ".", tensor = body + layer;
    location = NameLoc::get(builder.getStringAttr(StringRef(layer).drop_back()));

    Value x = norm(layer + "attention_norm", tensor + "input_layernorm.weight", h);
    h = make<AddOp>(config.hiddenSize, h, attention(i, x));

    x = norm(layer + "ffn_norm", tensor + "post_attention_layernorm.weight", h);
    Value y = config.isMoe(i) ? experts(i, x)
                              : mlp(layer + "mlp.", tensor + "feed_forward.", config.denseWidth, x);
    h = make<AddOp>(config.hiddenSize, h, y);
  }
  location = builder.getUnknownLoc();

  // Each token's logits need that token only, so the others are dropped before the norm.
  Value last = make<SelectRowsOp>(config.hiddenSize, h, rows);
  last = norm("norm", body + "norm.weight", last);
  Value w = weight("head", config.tiedEmbeddings ? body + "embed_tokens.weight" : head,
                   {config.vocabSize, config.hiddenSize}, /*shared=*/config.tiedEmbeddings);
  SmallVector<Value> results{make<LinearOp>(config.vocabSize, last, w)};
  if (options.hiddenStates)
    results.push_back(last);
  return results;
}

Value Importer::attention(int64_t i, Value x) {
  std::string layer = "layers." + std::to_string(i) + ".", tensor = body + layer + "self_attn.";
  int64_t queries = config.heads * config.headDim, keys = config.kvHeads * config.headDim;
  Value q = linear(layer + "q", tensor + "q_proj.weight", queries, x);
  Value k = linear(layer + "k", tensor + "k_proj.weight", keys, x);
  Value v = linear(layer + "v", tensor + "v_proj.weight", keys, x);

  bool rope = config.usesRope(i);
  if (rope) {
    q = make<RopeOp>(queries, q, ropeTable);
    k = make<RopeOp>(keys, k, ropeTable);
  }
  if (rope && config.qkNorm) { // after rope
    FloatAttr eps = builder.getF32FloatAttr(float(config.normEps));
    IntegerAttr dim = builder.getI64IntegerAttr(config.headDim);
    q = make<HeadNormOp>(queries, q, dim, eps);
    k = make<HeadNormOp>(keys, k, dim, eps);
  }
  if (!rope && config.temperature)
    q = make<TemperatureOp>(queries, q, positions,
                            builder.getF32FloatAttr(float(config.temperatureScale)),
                            builder.getF32FloatAttr(float(config.temperatureFloor)));

  // Layers without rope see the whole sequence, the others their chunk.
  IntegerAttr chunk;
  if (rope && config.attentionChunk)
    chunk = builder.getI64IntegerAttr(*config.attentionChunk);
  auto cache = CacheOp::create(symbols, location, layer + "kv", config.kvHeads, config.headDim,
                               chunk, typeOf(options.cache, builder.getContext()));
  auto kv = FlatSymbolRefAttr::get(cache.getSymNameAttr());
  AppendOp::create(builder, location, kv, k, v, positions, sequences);
  Value y = make<AttentionOp>(queries, kv, q, positions, sequences);
  return linear(layer + "o", tensor + "o_proj.weight", config.hiddenSize, y);
}

// The shared expert sees every token; the routed ones see it scaled by their score.
Value Importer::experts(int64_t i, Value x) {
  std::string layer = "layers." + std::to_string(i) + ".", tensor = body + layer + "feed_forward.";
  Value shared = mlp(layer + "shared.", tensor + "shared_expert.", config.expertWidth, x);

  Value logits = linear(layer + "router", tensor + "router.weight", config.experts, x);
  auto route = RouteOp::create(
      builder, location, matrix(config.expertsPerToken, builder.getI32Type()),
      matrix(config.expertsPerToken), logits, builder.getI64IntegerAttr(config.expertsPerToken));
  Value gate = expertWeight(i, "gate"), up = expertWeight(i, "up"), down = expertWeight(i, "down");
  Value routed =
      make<ExpertsOp>(config.hiddenSize, x, route.getExperts(), route.getScores(), gate, up, down);
  return make<AddOp>(config.hiddenSize, shared, routed);
}

Value Importer::mlp(const Twine &name, const Twine &tensor, int64_t width, Value x) {
  Value gate = linear(name + "gate", tensor + "gate_proj.weight", width, x);
  Value up = linear(name + "up", tensor + "up_proj.weight", width, x);
  Value y = make<SwigluOp>(width, gate, up);
  return linear(name + "down", tensor + "down_proj.weight", config.hiddenSize, y);
}

Value Importer::norm(const Twine &name, const Twine &tensor, Value x) {
  return make<RmsNormOp>(config.hiddenSize, x, weight(name, tensor, {config.hiddenSize}),
                         builder.getF32FloatAttr(float(config.normEps)));
}

Value Importer::linear(const Twine &name, const Twine &tensor, int64_t outputs, Value x) {
  return make<LinearOp>(outputs, x, weight(name, tensor, {outputs, channels(x)}));
}

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

// The gate, up or down projections of all experts of a layer as [E, outputs, inputs], however the
// checkpoint stores them.
Value Importer::expertWeight(int64_t i, StringRef which) {
  std::string layer = "layers." + std::to_string(i) + ".";
  std::string at = body + layer + "feed_forward.experts.";
  ExpertLayout layout = tensors.find(at + "gate_proj.weight")      ? ExpertLayout::Stacked
                        : tensors.find(at + "0.gate_proj.weight")  ? ExpertLayout::Separate
                        : tensors.find(at + "gate_projs.0.weight") ? ExpertLayout::Linearized
                                                                   : ExpertLayout::Fused;
  int64_t e = config.experts, inputs = config.hiddenSize, outputs = config.expertWidth;
  if (which == "down")
    std::swap(inputs, outputs);
  Part part;
  SmallVector<int64_t> all{e, outputs, inputs};
  switch (layout) {
  case ExpertLayout::Fused: {
    bool down = which == "down"; // gate and up are the halves of the columns
    part = {at + (down ? "down_proj" : "gate_up_proj"),
            {e, inputs, down ? outputs : 2 * outputs},
            {{0, 0, which == "up" ? outputs : 0}, {e, inputs, outputs}},
            /*transposed=*/true};
    break;
  }
  case ExpertLayout::Separate:
    part = {at + "{}." + which.str() + "_proj.weight", all, {{0, 0, 0}, all}};
    break;
  case ExpertLayout::Linearized:
    part = {at + which.str() + "_projs.{}.weight", all, {{0, 0, 0}, all}};
    break;
  case ExpertLayout::Stacked:
    part = {at + which.str() + "_proj.weight", all, {{0, 0, 0}, all}};
    break;
  }
  return weight(layer + "experts." + which, all, part);
}

//===----------------------------------------------------------------------===//
// The module
//===----------------------------------------------------------------------===//

// Checkpoints of text models, of multimodal ones, and re-exports of these have different prefixes.
void Importer::findNames() {
  body = "model.";
  for (StringRef prefix :
       {"model.", "language_model.model.", "model.language_model.model.", "model.language_model."})
    if (tensors.find((prefix + "embed_tokens.weight").str())) {
      body = prefix.str();
      break;
    }
  head = StringRef(body).starts_with("language_model.") ? "language_model.lm_head.weight"
                                                        : "lm_head.weight";
  for (StringRef name :
       {"lm_head.weight", "language_model.lm_head.weight", "model.language_model.lm_head.weight"})
    if (tensors.find(name)) {
      head = name.str();
      break;
    }
}

DictionaryAttr Importer::facts() {
  SmallVector<NamedAttribute> fields;
  auto add = [&](StringRef name, Attribute value) {
    fields.push_back(builder.getNamedAttr(name, value));
  };
  auto integer = [&](StringRef name, int64_t value) {
    add(name, builder.getI64IntegerAttr(value));
  };
  bool routes = config.moeLayers() > 0;
  bool chunks =
      llvm::any_of(llvm::seq(config.layers), [&](int64_t i) { return config.usesRope(i); });
  add("architecture", builder.getStringAttr(config.architecture));
  integer("vocab_size", config.vocabSize);
  integer("hidden_size", config.hiddenSize);
  integer("layers", config.layers);
  integer("heads", config.heads);
  integer("kv_heads", config.kvHeads);
  integer("head_dim", config.headDim);
  integer("experts", routes ? config.experts : 0);
  integer("experts_per_token", routes ? config.expertsPerToken : 0);
  integer("moe_layers", config.moeLayers());
  integer("attention_chunk", chunks ? config.attentionChunk.value_or(0) : 0);
  integer("max_positions", config.maxPositions);
  integer("bos_token", config.bosToken);
  add("eos_tokens", builder.getDenseI32ArrayAttr(config.eosTokens));
  integer("pad_token", config.padToken);
  integer("parameters", int64_t(config.parameters()));
  integer("active_parameters", int64_t(config.activeParameters()));
  return builder.getDictionaryAttr(fields);
}

// Why a tensor that no weight took is not needed; empty if there is no such reason.
static std::string reasonToIgnore(StringRef name, StringRef body, const Llama4Config &config) {
  if (std::optional<std::string> reason = reasonToIgnoreOfVision(name, config.vision))
    return *reason;
  if (name.ends_with("rotary_emb.inv_freq") || name.ends_with("rope.freqs"))
    return "rope frequencies, which follow from config.json";
  if (name.ends_with(".input_scale") || name.ends_with("_input_scale") ||
      name.ends_with("_input_scale_inv") || name.ends_with("input_scale_ub") ||
      name.ends_with(".activation_scale") || name.ends_with(".input_zero_point"))
    return "scale of activations, which are quantized by what they are, or not at all";
  if (name.ends_with(".k_scale") || name.ends_with(".v_scale") || name.ends_with(".q_scale") ||
      name.ends_with(".kv_scale"))
    return "scale of an FP8 cache, which this version has not";
  if (config.tiedEmbeddings && name.ends_with("lm_head.weight"))
    return "the head is the embedding (tie_word_embeddings)";
  StringRef layer = name;
  int64_t number;
  if (layer.consume_front(body) && layer.consume_front("layers.") &&
      !layer.consumeInteger(10, number) && layer.starts_with(".") && number >= config.layers &&
      number < config.checkpointLayers)
    return ("beyond --layers " + Twine(config.layers)).str();
  return "";
}

void Importer::function(ModuleOp module, StringRef name, ArrayRef<Type> inputs,
                        ArrayRef<Type> results,
                        llvm::function_ref<SmallVector<Value>(ValueRange)> fill) {
  builder.setInsertionPointToEnd(module.getBody());
  auto function =
      func::FuncOp::create(builder, location, name, builder.getFunctionType(inputs, results));
  symbols.setInsertionPoint(function);
  builder.setInsertionPointToEnd(function.addEntryBlock());
  func::ReturnOp::create(builder, location, fill(function.getArguments()));
}

llvm::Expected<ImportedModel> Importer::import() {
  builder.getContext()->loadDialect<MoeDialect, func::FuncDialect>();
  findNames();

  ImportedModel model;
  model.module = ModuleOp::create(location);
  (*model.module)->setAttr("moe.model", facts());

  Type indices = RankedTensorType::get({ShapedType::kDynamic}, builder.getI32Type());
  SmallVector<Type> inputs(4, indices), results{matrix(config.vocabSize)};
  if (config.vision)
    inputs.append({matrix(config.hiddenSize), indices});
  if (options.hiddenStates)
    results.push_back(matrix(config.hiddenSize));
  function(*model.module, "step", inputs, results, [&](ValueRange given) { return step(given); });
  if (config.vision) {
    const VisionConfig &vision = *config.vision;
    if (llvm::Error error = checkVisionTensors(tensors))
      return error;
    (*model.module)->setAttr("moe.vision", visionFacts(vision, builder));
    Type tiles = RankedTensorType::get({ShapedType::kDynamic, vision.tileSize, vision.tileSize, 3},
                                       builder.getIntegerType(8, /*isSigned=*/false));
    Type rows = matrix(config.hiddenSize);
    function(*model.module, "vision", tiles, rows, [&](ValueRange given) {
      return SmallVector<Value>{importVision(*this, vision, config.hiddenSize, given[0])};
    });
  }

  auto reason = [&](StringRef name) { return reasonToIgnore(name, body, config); };
  if (llvm::Error error = ledger.settle(reason, model.ignored))
    return error;
  if (failed(verify(*model.module)))
    return llvm::createStringError(
        "the imported module is not valid, which is a bug of the importer");
  return model;
}

llvm::Expected<ImportedModel> moe::importLlama4(MLIRContext &context, const Llama4Config &config,
                                                const TensorSource &tensors,
                                                ImportOptions options) {
  return Importer(context, config, tensors, options).import();
}
