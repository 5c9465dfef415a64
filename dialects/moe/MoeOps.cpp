// Verifiers of the moe ops. A comment after a check names the constraint in MoeOps.td.
#include "dialects/moe/MoeOps.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/OpImplementation.h"

#include "dialects/moe/MoeInterfaces.cpp.inc"
#define GET_OP_CLASSES
#include "dialects/moe/MoeOps.cpp.inc"

using namespace mlir;
using namespace moe;

//===----------------------------------------------------------------------===//
// Helpers
//===----------------------------------------------------------------------===//

namespace {

/// A size and what it is the size of, for messages.
struct Dim {
  int64_t size;
  std::string name;
};

/// An operand or a result: `x[1]` is its second dimension.
struct Shape {
  StringRef name;
  Value value;

  Dim operator[](unsigned index) const {
    return {cast<ShapedType>(value.getType()).getDimSize(index),
            "dim " + std::to_string(index) + " of " + name.str()};
  }
};

} // namespace

static Dim operator*(int64_t factor, const Dim &dim) {
  return {ShapedType::isDynamic(dim.size) ? dim.size : factor * dim.size,
          std::to_string(factor) + " times " + dim.name};
}

/// Checks each pair of sizes: the first as found, the second as expected. A dynamic size is equal
/// to any.
static LogicalResult checkSame(Operation *op, ArrayRef<std::pair<Dim, Dim>> pairs) {
  for (const auto &[found, expected] : pairs)
    if (!ShapedType::isDynamic(found.size) && !ShapedType::isDynamic(expected.size) &&
        found.size != expected.size)
      return op->emitOpError() << "has " << found.size << " as " << found.name << ", expected "
                               << expected.size << ", " << expected.name;
  return success();
}

/// Checks that a whole number of parts of `size` elements make up a dimension.
static LogicalResult checkDivides(Operation *op, int64_t size, StringRef what, const Dim &dim) {
  if (!ShapedType::isDynamic(size) && size <= 0)
    return op->emitOpError() << "has " << size << " as " << what << ", expected more";
  if (!ShapedType::isDynamic(size) && !ShapedType::isDynamic(dim.size) && dim.size % size != 0)
    return op->emitOpError() << "has " << dim.size << " as " << dim.name
                             << ", expected a multiple of " << what << ", " << size;
  return success();
}

static LogicalResult checkPositive(Operation *op, StringRef name, const APFloat &value) {
  if (value.isFiniteNonZero() && !value.isNegative())
    return success();
  return op->emitOpError() << "has " << value.convertToFloat() << " as " << name
                           << ", expected a positive number";
}

static LogicalResult checkPositive(Operation *op, StringRef name, int64_t value) {
  if (value > 0)
    return success();
  return op->emitOpError() << "has " << value << " as " << name << ", expected a positive number";
}

/// Checks `0 < k <= experts`.
static LogicalResult checkChoice(Operation *op, int64_t k, const Dim &experts) {
  if (k > 0 && (ShapedType::isDynamic(experts.size) || k <= experts.size))
    return success();
  InFlightDiagnostic diag = op->emitOpError() << "picks " << k;
  if (!ShapedType::isDynamic(experts.size))
    diag << " of " << experts.size;
  return diag << " experts";
}

/// Checks the patches in a row of a tile, or the pixels in a row of a patch.
static LogicalResult checkGrid(Operation *op, StringRef name, int64_t value) {
  constexpr int64_t most = 1024;
  if (value >= 1 && value <= most)
    return success();
  return op->emitOpError() << "has " << value << " as " << name << ", expected 1 to " << most;
}

/// The rows of a tile in the tower: its patches and the class row.
static Dim rowsOfTile(int64_t grid) { return {grid * grid + 1, "the rows of a tile"}; }

/// Checks that the rows of x are those of whole tiles of `size` rows, and those of the result of as
/// many tiles of `resultSize` rows.
static LogicalResult checkTiles(Operation *op, Shape x, int64_t size, Shape result,
                                int64_t resultSize) {
  if (failed(checkDivides(op, size, "the rows of a tile", x[0])))
    return failure();
  Dim rows{ShapedType::isDynamic(x[0].size) ? x[0].size : x[0].size / size * resultSize,
           "the rows of as many tiles as x has"};
  return checkSame(op, {{result[0], rows}});
}

/// Checks how pixels become values, and how tiles become rows of patches.
template <typename PatchOp> static LogicalResult checkPatches(PatchOp op, Dim columns) {
  Shape tiles{"tiles", op.getTiles()};
  const int64_t patch = op.getPatch(), side = tiles[1].size;
  if (failed(checkGrid(op, "patch", patch)) ||
      failed(checkSame(op, {{tiles[2], tiles[1]}, {tiles[3], {3, "the channels of a pixel"}}})))
    return failure();
  if (ShapedType::isDynamic(side))
    return op.emitOpError("has tiles of dynamic sides, expected static ones");
  if (failed(checkDivides(op, patch, "patch", tiles[1])) ||
      failed(checkGrid(op, "dim 1 of tiles by patch", side / patch)))
    return failure();
  return checkSame(op, {{columns, {3 * patch * patch, "the elements of a patch"}}});
}

template <typename PatchOp> static LogicalResult checkPixels(PatchOp op) {
  for (auto [name, values] : {std::pair("mean", op.getMean()), std::pair("std", op.getStd())})
    if (values.size() != 3)
      return op.emitOpError() << "has " << values.size() << " of " << name
                              << ", expected 3, one for each channel of a pixel";
  for (float value : op.getStd())
    if (failed(checkPositive(op, "std", APFloat(value))))
      return failure();
  return checkPositive(op, "rescale", op.getRescale());
}

/// The op of kind `SymbolOp` that `symbol` names.
template <typename SymbolOp>
static FailureOr<SymbolOp> lookup(Operation *op, FlatSymbolRefAttr symbol,
                                  SymbolTableCollection &symbols) {
  Operation *found = symbols.lookupNearestSymbolFrom(op, symbol);
  if (!found)
    return op->emitOpError() << "refers to " << symbol << ", which is not defined";
  if (auto named = dyn_cast<SymbolOp>(found))
    return named;
  InFlightDiagnostic diag = op->emitOpError() << "refers to " << symbol << ", expected a "
                                              << SymbolOp::getOperationName();
  diag.attachNote(found->getLoc()) << "it is a " << found->getName();
  return diag;
}

//===----------------------------------------------------------------------===//
// Weights and caches
//===----------------------------------------------------------------------===//

static LogicalResult checkPacking(WeightOp op, PackingAttr packing) { // weight_c4
  ArrayRef<int64_t> shape = op.getType().getShape();
  WeightFormat format = packing.getFormat().getFormat();
  if (format.element == Storage::F16)
    return op.emitOpError("is packed as f16, expected f32, bf16 or codes");
  int64_t columns = shape.empty() ? 1 : shape.back();
  if (format.quantized() && columns % format.group != 0)
    return op.emitOpError() << "is packed in groups of " << format.group
                            << ", which do not divide its " << columns << " columns";
  if (packing.getRole() == WeightRole::Rows)
    return success();
  if (shape.size() < 2)
    return op.emitOpError() << "is packed as " << stringifyWeightRole(packing.getRole())
                            << ", but has fewer than two dimensions";
  int64_t rows = shape[shape.size() - 2], headDim = packing.getHeadDim();
  if (packing.getRole() == WeightRole::GateUp && rows % 2 != 0)
    return op.emitOpError("is packed as gate and up, but has an odd number of rows");
  if (packing.getRole() == WeightRole::Heads && (headDim <= 0 || rows % headDim != 0))
    return op.emitOpError(
        "is packed by heads, but its rows are not a multiple of the head dimension");
  return success();
}

LogicalResult WeightOp::verify() {
  RankedTensorType type = getType();
  Type element = type.getElementType();
  if (!type.hasStaticShape() || !(element.isF32() || element.isF16() || element.isBF16()))
    return emitOpError() << "has type " << type
                         << ", expected a static shape of f32, f16 or bf16"; // weight_c2

  const int64_t rank = type.getRank(), along = int64_t(getAlong());
  if (along < 0 || along >= std::max<int64_t>(rank, 1))
    return emitOpError() << "joins its sources along dimension " << along
                         << ", expected one of the " << rank << " of " << type; // weight_c3
  const int64_t parts = ShapedType::getNumElements(type.getShape().take_front(along));
  int64_t elements = 0;
  bool overflow = false;
  for (auto source : getSources().getAsRange<SourceAttr>()) {
    const int64_t own = source.getNumElements();
    if (parts > 0 && own % parts != 0)
      return emitOpError() << "joins source " << source << " of " << own << " elements along "
                           << "dimension " << along << ", expected a multiple of " << parts
                           << " as in " << type; // weight_c3
    overflow |= bool(llvm::AddOverflow(elements, own, elements));
  }
  if (overflow || elements != type.getNumElements()) {
    InFlightDiagnostic diag = emitOpError() << "has sources of ";
    return (overflow ? diag << "2^63 or more" : diag << elements)
           << " elements, expected " << type.getNumElements() << " as in " << type; // weight_c1
  }
  if (FormatAttr encoding = getEncodingAttr()) {
    if (!encoding.isQuantized())
      return emitOpError() << "is encoded as " << encoding << ", expected codes"; // weight_c5
    if (type.getRank() == 0 || type.getShape().back() % encoding.getGroup() != 0)
      return emitOpError() << "is encoded in groups of " << encoding.getGroup()
                           << ", which do not divide the last dimension of " << type; // weight_c5
  }
  if (std::optional<PackingAttr> packing = getPacking())
    return checkPacking(*this, *packing);
  return success();
}

LogicalResult CacheOp::verify() {
  if (failed(checkPositive(*this, "heads", getHeads())) ||
      failed(checkPositive(*this, "head_dim", getHeadDim())))
    return failure(); // cache_c1
  if (failed(checkPositive(*this, "chunk", getChunk().value_or(1))))
    return failure(); // cache_c1
  FailureOr<Storage> storage = storageOf(getElement());
  if (failed(storage) || (*storage != Storage::F32 && *storage != Storage::BF16 &&
                          *storage != Storage::F16 && *storage != Storage::I8))
    return emitOpError() << "keeps " << getElement()
                         << ", expected f32, bf16, f16 or i8"; // cache_c2
  return success();
}

LogicalResult LoadWeightOp::verifySymbolUses(SymbolTableCollection &symbols) {
  auto weight = lookup<WeightOp>(*this, getWeightAttr(), symbols);
  if (failed(weight))
    return failure(); // load_weight_c1
  if (weight->getType() == getType())
    return success();
  InFlightDiagnostic diag = emitOpError() << "has type " << getType() << ", expected that of "
                                          << getWeightAttr(); // load_weight_c1
  diag.attachNote(weight->getLoc()) << "it is " << weight->getType();
  return diag;
}

//===----------------------------------------------------------------------===//
// The model in the order of its math
//===----------------------------------------------------------------------===//

LogicalResult EmbedOp::verify() {
  Shape tokens{"tokens", getTokens()}, table{"table", getTable()}, result{"result", getResult()};
  if (failed(checkSame(*this, {{result[0], tokens[0]}, {result[1], table[1]}}))) // embed_c1
    return failure();
  if (bool(getImages()) != bool(getImageRows())) // embed_c2
    return emitOpError("has only one of images and image_rows, expected both or neither");
  if (!getImages())
    return success();
  Shape images{"images", getImages()}, rows{"image_rows", getImageRows()};
  return checkSame(*this, {{images[1], table[1]}, {rows[0], tokens[0]}}); // embed_c1
}

LogicalResult RmsNormOp::verify() {
  Shape x{"x", getX()}, weight{"weight", getWeight()};
  if (failed(checkSame(*this, {{weight[0], x[1]}}))) // rms_norm_c1
    return failure();
  return checkPositive(*this, "eps", getEps()); // rms_norm_c2
}

LogicalResult LinearOp::verify() {
  Shape x{"x", getX()}, weight{"weight", getWeight()}, result{"result", getResult()};
  return checkSame(*this, {{weight[1], x[1]}, // linear_c1
                           {result[0], x[0]},
                           {result[1], weight[0]}});
}

LogicalResult RopeTableOp::verify() {
  Shape positions{"positions", getPositions()}, result{"result", getResult()};
  Dim channels{int64_t(2 * getFrequencies().size()), "two for each frequency"};
  return checkSame(*this, {{result[0], positions[0]}, {result[1], channels}}); // rope_table_c1
}

LogicalResult RopeOp::verify() {
  Shape x{"x", getX()}, table{"table", getTable()};
  int64_t headDim = table[1].size;
  if (!ShapedType::isDynamic(headDim) && headDim % 2 != 0) // rope_c1
    return emitOpError() << "has " << headDim << " as dim 1 of table, expected an even number";
  if (failed(checkDivides(*this, headDim, "dim 1 of table", x[1]))) // rope_c1
    return failure();
  return checkSame(*this, {{table[0], x[0]}}); // rope_c2
}

LogicalResult HeadNormOp::verify() {
  Shape x{"x", getX()};
  if (failed(checkDivides(*this, getHeadDim(), "head_dim", x[1]))) // head_norm_c1
    return failure();
  return checkPositive(*this, "eps", getEps()); // head_norm_c2
}

LogicalResult TemperatureOp::verify() {
  Shape x{"x", getX()}, positions{"positions", getPositions()};
  if (failed(checkPositive(*this, "floor", getFloor()))) // temperature_c1
    return failure();
  return checkSame(*this, {{positions[0], x[0]}}); // temperature_c2
}

LogicalResult AppendOp::verifySymbolUses(SymbolTableCollection &symbols) {
  auto cache = lookup<CacheOp>(*this, getCacheAttr(), symbols);
  if (failed(cache))
    return failure(); // append_c1
  Shape keys{"keys", getKeys()}, positions{"positions", getPositions()};
  Dim channels{int64_t(cache->getHeads() * cache->getHeadDim()), "heads times head_dim"};
  return checkSame(*this, {{keys[1], channels},       // append_c1
                           {positions[0], keys[0]}}); // append_c2
}

LogicalResult AttentionOp::verifySymbolUses(SymbolTableCollection &symbols) {
  auto cache = lookup<CacheOp>(*this, getCacheAttr(), symbols);
  if (failed(cache))
    return failure(); // attention_c1
  Shape queries{"queries", getQueries()}, positions{"positions", getPositions()};
  // The queries of the heads that share one key and value head.
  int64_t channels = cache->getHeads() * cache->getHeadDim();
  if (failed(checkDivides(*this, channels, "heads times head_dim", queries[1]))) // attention_c1
    return failure();
  return checkSame(*this, {{positions[0], queries[0]}}); // attention_c2
}

LogicalResult RouteOp::verify() {
  Shape logits{"logits", getLogits()}, experts{"experts", getExperts()},
      scores{"scores", getScores()};
  if (failed(checkChoice(*this, getK(), logits[1]))) // route_c1
    return failure();
  Dim k{int64_t(getK()), "the number of experts picked"};
  return checkSame(*this, {{experts[0], logits[0]}, // route_c2
                           {experts[1], k},
                           {scores[0], logits[0]},
                           {scores[1], k}});
}

LogicalResult ExpertsOp::verify() {
  Shape x{"x", getX()}, experts{"experts", getExperts()}, scores{"scores", getScores()},
      gate{"gate", getGate()}, up{"up", getUp()}, down{"down", getDown()};
  return checkSame(*this, {{experts[0], x[0]}, // experts_c1
                           {scores[0], x[0]},
                           {scores[1], experts[1]},
                           {gate[2], x[1]},
                           {up[0], gate[0]},
                           {up[1], gate[1]},
                           {up[2], x[1]},
                           {down[0], gate[0]},
                           {down[1], x[1]},
                           {down[2], gate[1]}});
}

LogicalResult SelectRowsOp::verify() {
  Shape x{"x", getX()}, rows{"rows", getRows()}, result{"result", getResult()};
  return checkSame(*this, {{result[0], rows[0]}, {result[1], x[1]}}); // select_rows_c1
}

//===----------------------------------------------------------------------===//
// Pictures, in the order of the vision tower's math
//===----------------------------------------------------------------------===//

LogicalResult PatchesOp::verify() {
  Shape tiles{"tiles", getTiles()}, result{"result", getResult()};
  if (failed(checkPatches(*this, result[1]))) // patches_c1
    return failure();
  const int64_t grid = tiles[1].size / int64_t(getPatch());
  if (failed(checkSame(*this, {{result[0], grid * grid * tiles[0]}}))) // patches_c1
    return failure();
  return checkPixels(*this); // patches_c2
}

LogicalResult AppendClassOp::verify() {
  Shape x{"x", getX()}, row{"class_row", getClassRow()}, result{"result", getResult()};
  const int64_t grid = getGrid();
  if (failed(checkGrid(*this, "grid", grid)) || // append_class_c1
      failed(checkSame(*this, {{row[0], x[1]}, {result[1], x[1]}})))
    return failure();
  return checkTiles(*this, x, grid * grid, result, rowsOfTile(grid).size); // append_class_c1
}

LogicalResult AddPositionsOp::verify() {
  Shape x{"x", getX()}, table{"table", getTable()};
  if (failed(checkSame(*this, {{table[1], x[1]}}))) // add_positions_c1
    return failure();
  return checkDivides(*this, table[0].size, table[0].name, x[0]); // add_positions_c1
}

LogicalResult LayerNormOp::verify() {
  Shape x{"x", getX()}, weight{"weight", getWeight()}, bias{"bias", getBias()};
  if (failed(checkSame(*this, {{weight[0], x[1]}, {bias[0], x[1]}}))) // layer_norm_c1
    return failure();
  return checkPositive(*this, "eps", getEps()); // layer_norm_c2
}

LogicalResult LinearBiasOp::verify() {
  Shape x{"x", getX()}, weight{"weight", getWeight()}, bias{"bias", getBias()},
      result{"result", getResult()};
  return checkSame(*this, {{weight[1], x[1]}, // linear_bias_c1
                           {bias[0], weight[0]},
                           {result[0], x[0]},
                           {result[1], weight[0]}});
}

/// Checks that `channels` are those of `heads` heads of 4 i channels.
static LogicalResult checkRotatedHeads(Operation *op, int64_t heads, const Dim &channels) {
  if (failed(checkDivides(op, heads, "heads", channels)))
    return failure();
  if (!ShapedType::isDynamic(channels.size) && channels.size / heads % 4 != 0)
    return op->emitOpError() << "rotates heads of " << channels.size / heads
                             << " channels, expected a multiple of 4: pairs for each of two axes";
  return success();
}

LogicalResult PatchRopeOp::verify() {
  Shape x{"x", getX()};
  if (failed(checkRotatedHeads(*this, getHeads(), x[1]))) // patch_rope_c1
    return failure();
  Dim rows = rowsOfTile(getGrid());
  if (failed(checkGrid(*this, "grid", getGrid())) ||
      failed(checkDivides(*this, rows.size, rows.name, x[0]))) // patch_rope_c2
    return failure();
  return checkPositive(*this, "theta", getTheta()); // patch_rope_c3
}

LogicalResult TileAttentionOp::verify() {
  Shape queries{"queries", getQueries()};
  if (failed(checkDivides(*this, getHeads(), "heads", queries[1]))) // tile_attention_c1
    return failure();
  if (failed(checkGrid(*this, "grid", getGrid()))) // tile_attention_c2
    return failure();
  Dim rows = rowsOfTile(getGrid());
  return checkDivides(*this, rows.size, rows.name, queries[0]); // tile_attention_c2
}

LogicalResult DropClassOp::verify() {
  Shape x{"x", getX()}, result{"result", getResult()};
  const int64_t grid = getGrid();
  if (failed(checkGrid(*this, "grid", grid)) || // drop_class_c1
      failed(checkSame(*this, {{result[1], x[1]}})))
    return failure();
  return checkTiles(*this, x, rowsOfTile(grid).size, result, grid * grid); // drop_class_c1
}

/// Checks that each two by two patches can become one row.
static LogicalResult checkEvenGrid(Operation *op, int64_t grid) {
  if (failed(checkGrid(op, "grid", grid)))
    return failure();
  if (grid % 2 != 0)
    return op->emitOpError() << "has " << grid << " as grid, expected an even number";
  return success();
}

LogicalResult PixelShuffleOp::verify() {
  Shape x{"x", getX()}, result{"result", getResult()};
  const int64_t grid = getGrid();
  if (failed(checkEvenGrid(*this, grid)) || // pixel_shuffle_c1
      failed(checkSame(*this, {{result[1], 4 * x[1]}})))
    return failure();
  return checkTiles(*this, x, grid * grid, result, grid * grid / 4); // pixel_shuffle_c1
}

//===----------------------------------------------------------------------===//
// Fused: whole blocks
//===----------------------------------------------------------------------===//

LogicalResult QkvOp::verify() {
  Shape x{"x", getX()}, norm{"norm", getNorm()}, weight{"weight", getWeight()},
      result{"result", getResult()};
  if (failed(checkSame(*this, {{norm[0], x[1]}, // qkv_c1
                               {weight[1], x[1]},
                               {result[0], x[0]},
                               {result[1], weight[0]}})))
    return failure();
  return checkPositive(*this, "eps", getEps()); // qkv_c2
}

LogicalResult AttentionBlockOp::verifySymbolUses(SymbolTableCollection &symbols) {
  auto cache = lookup<CacheOp>(*this, getCacheAttr(), symbols);
  if (failed(cache))
    return failure(); // attention_block_c1
  Shape qkv{"qkv", getQkv()}, positions{"positions", getPositions()}, result{"result", getResult()};
  int64_t headDim = cache->getHeadDim(), channels = cache->getHeads() * headDim;
  Dim width{ShapedType::isDynamic(result[1].size) ? ShapedType::kDynamic
                                                  : result[1].size + 2 * channels,
            "the queries, keys and values of @" + getCache().str()};
  if (failed(checkDivides(*this, channels, "heads times head_dim", result[1])) ||
      failed(checkSame(*this, {{qkv[1], width}, // attention_block_c1
                               {positions[0], qkv[0]},
                               {result[0], qkv[0]}})))
    return failure();
  if (getTable()) {
    Shape table{"table", getTable()};
    if (failed(checkSame(*this, {{table[0], qkv[0]}, // attention_block_c1
                                 {table[1], {headDim, "head_dim"}}})))
      return failure();
    if (headDim % 2 != 0) // attention_block_c1
      return emitOpError() << "rotates heads of " << headDim
                           << " channels, expected an even number";
  }

  if (getTemperatureScale().has_value() != getTemperatureFloor().has_value()) // attention_block_c2
    return emitOpError() << "has only one of temperature_scale and temperature_floor, expected "
                            "both or neither";
  if (getTemperatureFloor() &&
      failed(checkPositive(*this, "temperature_floor", *getTemperatureFloor())))
    return failure(); // attention_block_c2
  if (getQkNorm())
    return checkPositive(*this, "qk_norm", *getQkNorm()); // attention_block_c3
  return success();
}

LogicalResult LinearResidualOp::verify() {
  Shape x{"x", getX()}, weight{"weight", getWeight()}, residual{"residual", getResidual()};
  return checkSame(*this, {{weight[1], x[1]}, // linear_residual_c1
                           {residual[0], x[0]},
                           {residual[1], weight[0]}});
}

LogicalResult MoeBlockOp::verify() {
  Shape x{"x", getX()}, norm{"norm", getNorm()}, router{"router", getRouter()},
      sharedGateUp{"shared_gate_up", getSharedGateUp()}, gateUp{"gate_up", getGateUp()},
      sharedDown{"shared_down", getSharedDown()}, down{"down", getDown()};
  if (failed(checkSame(*this, {{norm[0], x[1]}, // moe_block_c1
                               {router[1], x[1]},
                               {sharedGateUp[1], x[1]},
                               {gateUp[0], router[0]},
                               {gateUp[2], x[1]},
                               {sharedDown[0], x[1]},
                               {down[0], router[0]},
                               {down[1], x[1]},
                               {gateUp[1], 2 * down[2]},
                               {sharedDown[1], down[2]},
                               {sharedGateUp[0], 2 * sharedDown[1]}})))
    return failure();
  if (failed(checkChoice(*this, getK(), router[0]))) // moe_block_c2
    return failure();
  return checkPositive(*this, "eps", getEps()); // moe_block_c3
}

LogicalResult MlpBlockOp::verify() {
  Shape x{"x", getX()}, norm{"norm", getNorm()}, gateUp{"gate_up", getGateUp()},
      down{"down", getDown()};
  if (failed(checkSame(*this, {{norm[0], x[1]}, // mlp_block_c1
                               {gateUp[1], x[1]},
                               {down[0], x[1]},
                               {gateUp[0], 2 * down[1]}})))
    return failure();
  return checkPositive(*this, "eps", getEps()); // mlp_block_c2
}

LogicalResult HeadOp::verify() {
  Shape x{"x", getX()}, rows{"rows", getRows()}, norm{"norm", getNorm()},
      weight{"weight", getWeight()}, result{"result", getResult()};
  if (failed(checkSame(*this, {{norm[0], x[1]}, // head_c1
                               {weight[1], x[1]},
                               {result[0], rows[0]},
                               {result[1], weight[0]}})))
    return failure();
  return checkPositive(*this, "eps", getEps()); // head_c2
}

LogicalResult FinalNormOp::verify() {
  Shape x{"x", getX()}, rows{"rows", getRows()}, norm{"norm", getNorm()},
      result{"result", getResult()};
  if (failed(checkSame(
          *this, {{norm[0], x[1]}, {result[0], rows[0]}, {result[1], x[1]}}))) // final_norm_c1
    return failure();
  return checkPositive(*this, "eps", getEps()); // final_norm_c2
}

//===----------------------------------------------------------------------===//
// Fused: pictures
//===----------------------------------------------------------------------===//

LogicalResult PatchEmbedOp::verify() {
  Shape tiles{"tiles", getTiles()}, weight{"weight", getWeight()}, row{"class_row", getClassRow()},
      positions{"positions", getPositions()}, norm{"norm", getNorm()},
      normBias{"norm_bias", getNormBias()}, result{"result", getResult()};
  if (failed(checkPatches(*this, weight[1]))) // patch_embed_c1
    return failure();
  Dim rows = rowsOfTile(tiles[1].size / int64_t(getPatch()));
  if (failed(checkSame(*this, {{row[0], weight[0]}, // patch_embed_c1
                               {positions[0], rows},
                               {positions[1], weight[0]},
                               {norm[0], weight[0]},
                               {normBias[0], weight[0]},
                               {result[0], rows.size * tiles[0]},
                               {result[1], weight[0]}})))
    return failure();
  if (failed(checkPixels(*this))) // patch_embed_c2
    return failure();
  return checkPositive(*this, "eps", getEps()); // patch_embed_c3
}

LogicalResult TowerQkvOp::verify() {
  Shape x{"x", getX()}, norm{"norm", getNorm()}, normBias{"norm_bias", getNormBias()},
      weight{"weight", getWeight()}, bias{"bias", getBias()}, result{"result", getResult()};
  if (failed(checkSame(*this, {{norm[0], x[1]}, // tower_qkv_c1
                               {normBias[0], x[1]},
                               {weight[1], x[1]},
                               {bias[0], weight[0]},
                               {result[0], x[0]},
                               {result[1], weight[0]}})) ||
      failed(checkGrid(*this, "grid", getGrid())))
    return failure();
  Dim rows = rowsOfTile(getGrid());
  if (failed(checkDivides(*this, rows.size, rows.name, x[0]))) // tower_qkv_c1
    return failure();
  Dim third{weight[0].size / 3, "a third of dim 0 of weight"};
  if (failed(checkDivides(*this, 3, "queries, keys and values", weight[0])) ||
      failed(checkRotatedHeads(*this, getHeads(), third))) // tower_qkv_c2
    return failure();
  if (failed(checkPositive(*this, "theta", getTheta()))) // tower_qkv_c3
    return failure();
  return checkPositive(*this, "eps", getEps()); // tower_qkv_c3
}

LogicalResult TowerAttentionOp::verify() {
  Shape qkv{"qkv", getQkv()}, result{"result", getResult()};
  if (failed(checkDivides(*this, getHeads(), "heads", result[1])) || // tower_attention_c1
      failed(checkSame(*this, {{qkv[1], 3 * result[1]}, {result[0], qkv[0]}})) ||
      failed(checkGrid(*this, "grid", getGrid()))) // tower_attention_c2
    return failure();
  Dim rows = rowsOfTile(getGrid());
  return checkDivides(*this, rows.size, rows.name, qkv[0]); // tower_attention_c2
}

LogicalResult ProjectionOp::verify() {
  Shape x{"x", getX()}, weight{"weight", getWeight()}, result{"result", getResult()};
  if (failed(checkSame(*this, {{weight[1], x[1]}, // projection_c1
                               {result[0], x[0]},
                               {result[1], weight[0]}})))
    return failure();
  if (bool(getNorm()) != bool(getNormBias()) || bool(getNorm()) != getEps().has_value())
    return emitOpError(
        "has some of norm, norm_bias and eps, expected all or none"); // projection_c2
  if (getNorm()) {
    Shape norm{"norm", getNorm()}, normBias{"norm_bias", getNormBias()};
    if (failed(checkSame(*this, {{norm[0], x[1]}, {normBias[0], x[1]}}))) // projection_c1
      return failure();
    if (failed(checkPositive(*this, "eps", *getEps()))) // projection_c2
      return failure();
  }
  if (getBias()) {
    Shape bias{"bias", getBias()};
    if (failed(checkSame(*this, {{bias[0], weight[0]}}))) // projection_c1
      return failure();
  }
  if (!getResidual())
    return success();
  Shape residual{"residual", getResidual()};
  return checkSame(*this, {{residual[0], x[0]}, {residual[1], weight[0]}}); // projection_c1
}

LogicalResult TowerOutputOp::verify() {
  Shape x{"x", getX()}, norm{"norm", getNorm()}, normBias{"norm_bias", getNormBias()},
      result{"result", getResult()};
  const int64_t grid = getGrid();
  if (failed(checkEvenGrid(*this, grid)) || // tower_output_c1
      failed(checkSame(*this, {{norm[0], x[1]}, {normBias[0], x[1]}, {result[1], 4 * x[1]}})) ||
      failed(checkTiles(*this, x, rowsOfTile(grid).size, result, grid * grid / 4)))
    return failure();
  return checkPositive(*this, "eps", getEps()); // tower_output_c2
}

//===----------------------------------------------------------------------===//
// What weights are read for
//===----------------------------------------------------------------------===//

SmallVector<WeightUse> EmbedOp::getWeightUses() {
  return {{&getTableMutable(), WeightKind::Embedding, WeightRole::Rows}};
}

SmallVector<WeightUse> RmsNormOp::getWeightUses() {
  return {{&getWeightMutable(), WeightKind::Norm, WeightRole::Rows}};
}

SmallVector<WeightUse> LinearOp::getWeightUses() {
  if (llvm::any_of((*this)->getUsers(), llvm::IsaPred<RouteOp>))
    return {{&getWeightMutable(), WeightKind::Router, WeightRole::Rows}};
  return {{&getWeightMutable(), WeightKind::Dense, WeightRole::Matrix}};
}

SmallVector<WeightUse> ExpertsOp::getWeightUses() {
  return {{&getGateMutable(), WeightKind::Routed, WeightRole::Matrix},
          {&getUpMutable(), WeightKind::Routed, WeightRole::Matrix},
          {&getDownMutable(), WeightKind::Routed, WeightRole::Matrix}};
}

SmallVector<WeightUse> QkvOp::getWeightUses() {
  int64_t headDim = 0; // of the cache that the result goes to
  for (Operation *user : (*this)->getUsers())
    if (auto block = dyn_cast<AttentionBlockOp>(user))
      if (auto cache = SymbolTable::lookupNearestSymbolFrom<CacheOp>(block, block.getCacheAttr()))
        headDim = cache.getHeadDim();
  return {{&getNormMutable(), WeightKind::Norm, WeightRole::Rows},
          {&getWeightMutable(), WeightKind::Attention, WeightRole::Heads, headDim}};
}

SmallVector<WeightUse> LinearResidualOp::getWeightUses() {
  return {{&getWeightMutable(), WeightKind::Attention, WeightRole::Matrix}};
}

SmallVector<WeightUse> MoeBlockOp::getWeightUses() {
  return {{&getNormMutable(), WeightKind::Norm, WeightRole::Rows},
          {&getRouterMutable(), WeightKind::Router, WeightRole::Rows},
          {&getSharedGateUpMutable(), WeightKind::Shared, WeightRole::GateUp},
          {&getGateUpMutable(), WeightKind::Routed, WeightRole::GateUp},
          {&getSharedDownMutable(), WeightKind::Shared, WeightRole::Matrix},
          {&getDownMutable(), WeightKind::Routed, WeightRole::Matrix}};
}

SmallVector<WeightUse> MlpBlockOp::getWeightUses() {
  return {{&getNormMutable(), WeightKind::Norm, WeightRole::Rows},
          {&getGateUpMutable(), WeightKind::Dense, WeightRole::GateUp},
          {&getDownMutable(), WeightKind::Dense, WeightRole::Matrix}};
}

SmallVector<WeightUse> HeadOp::getWeightUses() {
  return {{&getNormMutable(), WeightKind::Norm, WeightRole::Rows},
          {&getWeightMutable(), WeightKind::Head, WeightRole::Matrix}};
}

SmallVector<WeightUse> FinalNormOp::getWeightUses() {
  return {{&getNormMutable(), WeightKind::Norm, WeightRole::Rows}};
}

SmallVector<WeightUse> AppendClassOp::getWeightUses() {
  return {{&getClassRowMutable(), WeightKind::Norm, WeightRole::Rows}};
}

SmallVector<WeightUse> AddPositionsOp::getWeightUses() {
  return {{&getTableMutable(), WeightKind::Norm, WeightRole::Rows}};
}

SmallVector<WeightUse> LayerNormOp::getWeightUses() {
  return {{&getWeightMutable(), WeightKind::Norm, WeightRole::Rows},
          {&getBiasMutable(), WeightKind::Norm, WeightRole::Rows}};
}

SmallVector<WeightUse> LinearBiasOp::getWeightUses() {
  return {{&getWeightMutable(), WeightKind::Vision, WeightRole::Matrix},
          {&getBiasMutable(), WeightKind::Norm, WeightRole::Rows}};
}

SmallVector<WeightUse> PatchEmbedOp::getWeightUses() {
  return {{&getWeightMutable(), WeightKind::Vision, WeightRole::Matrix},
          {&getClassRowMutable(), WeightKind::Norm, WeightRole::Rows},
          {&getPositionsMutable(), WeightKind::Norm, WeightRole::Rows},
          {&getNormMutable(), WeightKind::Norm, WeightRole::Rows},
          {&getNormBiasMutable(), WeightKind::Norm, WeightRole::Rows}};
}

SmallVector<WeightUse> TowerQkvOp::getWeightUses() {
  return {{&getNormMutable(), WeightKind::Norm, WeightRole::Rows},
          {&getNormBiasMutable(), WeightKind::Norm, WeightRole::Rows},
          {&getWeightMutable(), WeightKind::Vision, WeightRole::Matrix},
          {&getBiasMutable(), WeightKind::Norm, WeightRole::Rows}};
}

SmallVector<WeightUse> ProjectionOp::getWeightUses() {
  SmallVector<WeightUse> uses{{&getWeightMutable(), WeightKind::Vision, WeightRole::Matrix}};
  for (MutableOperandRange rows : {getNormMutable(), getNormBiasMutable(), getBiasMutable()})
    for (OpOperand &operand : rows)
      uses.push_back({&operand, WeightKind::Norm, WeightRole::Rows});
  return uses;
}

SmallVector<WeightUse> TowerOutputOp::getWeightUses() {
  return {{&getNormMutable(), WeightKind::Norm, WeightRole::Rows},
          {&getNormBiasMutable(), WeightKind::Norm, WeightRole::Rows}};
}
