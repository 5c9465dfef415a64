// One `evaluate` for each op, which calls the reference. Shapes are checked by the op's own
// verifier, with those of the run; what is left to check here are indices.
#include "dialects/moe/MoeInterpreter.h"
#include "dialects/moe/VisionReference.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/APFloat.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace moe;
using reference::Indices;
using reference::Rounding;
using reference::Values;

/// Rounds to what an element type can hold; fails for a type that is none of f32, f16 and bf16.
static LogicalResult roundTo(Type element, std::vector<float> &values) {
  if (element.isF32())
    return success();
  if (!element.isBF16() && !element.isF16())
    return failure();
  for (float &value : values) {
    if (element.isBF16()) {
      value = reference::roundToBfloat16(value);
      continue;
    }
    llvm::APFloat rounded(value);
    bool losesInfo;
    rounded.convert(llvm::APFloat::IEEEhalf(), llvm::APFloat::rmNearestTiesToEven, &losesInfo);
    value = rounded.convertToFloat();
  }
  return success();
}

namespace {

using Shape = SmallVector<int64_t>;

/// The values of one run of one function.
class FunctionRun {
public:
  explicit FunctionRun(Interpreter &interpreter)
      : interpreter(interpreter), rounding(interpreter.rounding) {}

  LogicalResult bind(func::FuncOp function, ArrayRef<TensorValue> arguments);
  LogicalResult evaluate(Operation *op);
  const TensorValue &operator[](Value value) const { return *values.at(value); }

private:
  LogicalResult define(Operation *op, Value value, TensorValue result);

  /// For ops of one result.
  LogicalResult define(Operation *op, Shape shape, Values result) {
    return define(op, op->getResult(0), {std::move(shape), std::move(result)});
  }

  const std::vector<float> &floats(Value value) const { return (*this)[value].floats(); }
  const std::vector<int32_t> &ints(Value value) const { return (*this)[value].ints(); }
  const std::vector<uint8_t> &bytes(Value value) const { return (*this)[value].bytes(); }
  const Shape &shape(Value value) const { return (*this)[value].shape; }
  int64_t dim(Value value, size_t index) const { return shape(value)[index]; }

  /// Verifies the op once more with the shapes of this run as types, since its verifier leaves open
  /// what is dynamic.
  LogicalResult verifyShapes(Operation *op);
  LogicalResult checkIndices(Operation *op, StringRef what, Indices indices, int64_t end);
  FailureOr<reference::KvCache *> cacheOf(Operation *op, FlatSymbolRefAttr symbol);

  LogicalResult evaluate(LoadWeightOp op);
  LogicalResult evaluate(EmbedOp op);
  LogicalResult evaluate(RmsNormOp op);
  LogicalResult evaluate(LinearOp op);
  LogicalResult evaluate(RopeTableOp op);
  LogicalResult evaluate(RopeOp op);
  LogicalResult evaluate(HeadNormOp op);
  LogicalResult evaluate(TemperatureOp op);
  LogicalResult evaluate(AppendOp op);
  LogicalResult evaluate(AttentionOp op);
  LogicalResult evaluate(SwigluOp op);
  LogicalResult evaluate(AddOp op);
  LogicalResult evaluate(RouteOp op);
  LogicalResult evaluate(ExpertsOp op);
  LogicalResult evaluate(SelectRowsOp op);
  LogicalResult evaluate(PatchesOp op);
  LogicalResult evaluate(AppendClassOp op);
  LogicalResult evaluate(AddPositionsOp op);
  LogicalResult evaluate(LayerNormOp op);
  LogicalResult evaluate(LinearBiasOp op);
  LogicalResult evaluate(PatchRopeOp op);
  LogicalResult evaluate(TileAttentionOp op);
  LogicalResult evaluate(GeluOp op);
  LogicalResult evaluate(DropClassOp op);
  LogicalResult evaluate(PixelShuffleOp op);
  LogicalResult evaluate(QkvOp op);
  LogicalResult evaluate(AttentionBlockOp op);
  LogicalResult evaluate(LinearResidualOp op);
  LogicalResult evaluate(MoeBlockOp op);
  LogicalResult evaluate(MlpBlockOp op);
  LogicalResult evaluate(HeadOp op);
  LogicalResult evaluate(FinalNormOp op);
  LogicalResult evaluate(PatchEmbedOp op);
  LogicalResult evaluate(TowerQkvOp op);
  LogicalResult evaluate(TowerAttentionOp op);
  LogicalResult evaluate(ProjectionOp op);
  LogicalResult evaluate(TowerOutputOp op);

  Interpreter &interpreter;
  const Rounding rounding;
  DenseMap<Value, std::shared_ptr<const TensorValue>> values;
};

} // namespace

//===----------------------------------------------------------------------===//
// Values
//===----------------------------------------------------------------------===//

/// Whether a value can be one of a type.
static bool fits(const TensorValue &value, Type type) {
  auto tensor = dyn_cast<RankedTensorType>(type);
  if (!tensor || tensor.getRank() != int64_t(value.shape.size()))
    return false;
  for (auto [expected, found] : llvm::zip_equal(tensor.getShape(), value.shape))
    if (!ShapedType::isDynamic(expected) && expected != found)
      return false;
  size_t elements = size_t(ShapedType::getNumElements(value.shape));
  if (std::holds_alternative<std::vector<int32_t>>(value.elements))
    return tensor.getElementType().isInteger(32) && value.ints().size() == elements;
  if (std::holds_alternative<std::vector<uint8_t>>(value.elements))
    return tensor.getElementType().isUnsignedInteger(8) && value.bytes().size() == elements;
  return isa<FloatType>(tensor.getElementType()) && value.floats().size() == elements;
}

LogicalResult FunctionRun::bind(func::FuncOp function, ArrayRef<TensorValue> arguments) {
  if (function.getNumArguments() != arguments.size())
    return function.emitOpError() << "takes " << function.getNumArguments()
                                  << " arguments, but is run with " << arguments.size();
  for (auto [argument, given] : llvm::zip_equal(function.getArguments(), arguments)) {
    TensorValue value = given;
    if (!fits(value, argument.getType()))
      return function.emitOpError() << "is run with an argument #" << argument.getArgNumber()
                                    << " that is no " << argument.getType();
    if (auto *elements = std::get_if<std::vector<float>>(&value.elements))
      if (failed(roundTo(getElementTypeOrSelf(argument), *elements)))
        return function.emitOpError() << "takes " << argument.getType()
                                      << ", expected elements of f32, f16, bf16, i32 or ui8";
    values[argument] = std::make_shared<const TensorValue>(std::move(value));
  }
  return success();
}

LogicalResult FunctionRun::define(Operation *op, Value value, TensorValue result) {
  if (!fits(result, value.getType())) {
    InFlightDiagnostic diag = op->emitOpError() << "has a result of shape ";
    llvm::interleave(result.shape, diag, "x");
    return diag << " in this run, expected " << value.getType();
  }
  values[value] = std::make_shared<const TensorValue>(std::move(result));
  return success();
}

LogicalResult FunctionRun::verifyShapes(Operation *op) {
  Block shaped; // whose arguments are operands of static types
  IRMapping operands;
  for (Value operand : op->getOperands())
    if (!operands.contains(operand)) {
      auto type = cast<RankedTensorType>(operand.getType()).clone(shape(operand));
      operands.map(operand, shaped.addArgument(type, operand.getLoc()));
    }
  OpBuilder builder(op); // beside the op, so that symbols are found
  Operation *copy = builder.clone(*op, operands);
  SmallVector<Type> types;
  if (auto infer = dyn_cast<InferTypeOpInterface>(copy);
      infer && succeeded(infer.inferReturnTypes(
                   op->getContext(), op->getLoc(), copy->getOperands(), copy->getAttrDictionary(),
                   copy->getPropertiesStorage(), copy->getRegions(), types)))
    for (auto [result, type] : llvm::zip_equal(copy->getResults(), types))
      result.setType(type);
  LogicalResult verified = copy->getName().verifyInvariants(copy);
  if (auto user = dyn_cast<SymbolUserOpInterface>(copy); user && succeeded(verified)) {
    SymbolTableCollection symbols;
    verified = user.verifySymbolUses(symbols);
  }
  copy->erase();
  return verified;
}

LogicalResult FunctionRun::checkIndices(Operation *op, StringRef what, Indices indices,
                                        int64_t end) {
  for (int32_t index : indices)
    if (index < 0 || index >= end)
      return op->emitOpError() << "has " << what << " " << index << ", expected 0 to " << end - 1;
  return success();
}

FailureOr<reference::KvCache *> FunctionRun::cacheOf(Operation *op, FlatSymbolRefAttr symbol) {
  return interpreter.cache(SymbolTable::lookupNearestSymbolFrom<CacheOp>(op, symbol));
}

//===----------------------------------------------------------------------===//
// The model in the order of its math
//===----------------------------------------------------------------------===//

LogicalResult FunctionRun::evaluate(LoadWeightOp op) {
  auto loaded =
      interpreter.weight(SymbolTable::lookupNearestSymbolFrom<WeightOp>(op, op.getWeightAttr()));
  if (failed(loaded))
    return failure();
  values[op.getResult()] = *loaded;
  return success();
}

LogicalResult FunctionRun::evaluate(EmbedOp op) {
  int64_t channels = dim(op.getTable(), 1);
  if (failed(checkIndices(op, "token", ints(op.getTokens()), dim(op.getTable(), 0))))
    return failure();
  Shape shape{dim(op.getTokens(), 0), channels};
  if (!op.getImages())
    return define(
        op, shape,
        reference::embed(ints(op.getTokens()), floats(op.getTable()), channels, rounding));
  for (int32_t row : ints(op.getImageRows())) // negative: that of the table
    if (row >= dim(op.getImages(), 0))
      return op.emitOpError() << "takes row " << row << " of " << dim(op.getImages(), 0)
                              << " rows of images";
  return define(op, shape,
                reference::embedWithImages(ints(op.getTokens()), floats(op.getTable()),
                                           floats(op.getImages()), ints(op.getImageRows()),
                                           channels, rounding));
}

LogicalResult FunctionRun::evaluate(RmsNormOp op) {
  return define(op, shape(op.getX()),
                reference::rmsNorm(floats(op.getX()), floats(op.getWeight()),
                                   op.getEps().convertToFloat(), rounding));
}

LogicalResult FunctionRun::evaluate(LinearOp op) {
  int64_t channels = dim(op.getX(), 1);
  return define(op, {dim(op.getX(), 0), dim(op.getWeight(), 0)},
                reference::linear(floats(op.getX()), floats(op.getWeight()), channels, rounding));
}

LogicalResult FunctionRun::evaluate(RopeTableOp op) {
  return define(op, {dim(op.getPositions(), 0), int64_t(2 * op.getFrequencies().size())},
                reference::ropeTable(ints(op.getPositions()), op.getFrequencies()));
}

LogicalResult FunctionRun::evaluate(RopeOp op) {
  int64_t headDim = dim(op.getTable(), 1);
  return define(op, shape(op.getX()),
                reference::rope(floats(op.getX()), floats(op.getTable()), headDim, rounding));
}

LogicalResult FunctionRun::evaluate(HeadNormOp op) {
  return define(op, shape(op.getX()),
                reference::headNorm(floats(op.getX()), op.getHeadDim(),
                                    op.getEps().convertToFloat(), rounding));
}

LogicalResult FunctionRun::evaluate(TemperatureOp op) {
  return define(op, shape(op.getX()),
                reference::temperature(floats(op.getX()), ints(op.getPositions()),
                                       op.getScale().convertToFloat(),
                                       op.getFloor().convertToFloat(), rounding));
}

LogicalResult FunctionRun::evaluate(AppendOp op) {
  FailureOr<reference::KvCache *> cache = cacheOf(op, op.getCacheAttr());
  if (failed(cache) || failed(checkIndices(op, "position", ints(op.getPositions()), INT32_MAX)))
    return failure();
  (*cache)->append(floats(op.getKeys()), floats(op.getValues()), ints(op.getPositions()),
                   ints(op.getSequences()));
  return success();
}

LogicalResult FunctionRun::evaluate(AttentionOp op) {
  FailureOr<reference::KvCache *> cache = cacheOf(op, op.getCacheAttr());
  if (failed(cache))
    return failure();
  for (auto [position, sequence] :
       llvm::zip_equal(ints(op.getPositions()), ints(op.getSequences())))
    if (position < 0 || position >= (*cache)->length(sequence))
      return op.emitOpError() << "looks for position " << position << " of sequence " << sequence
                              << ", which was never appended";
  return define(op, shape(op.getQueries()),
                reference::attention(**cache, floats(op.getQueries()), ints(op.getPositions()),
                                     ints(op.getSequences()), rounding));
}

LogicalResult FunctionRun::evaluate(SwigluOp op) {
  return define(op, shape(op.getGate()),
                reference::swiglu(floats(op.getGate()), floats(op.getUp()), rounding));
}

LogicalResult FunctionRun::evaluate(AddOp op) {
  return define(op, shape(op.getA()),
                reference::add(floats(op.getA()), floats(op.getB()), rounding));
}

LogicalResult FunctionRun::evaluate(RouteOp op) {
  int64_t tokens = dim(op.getLogits(), 0), experts = dim(op.getLogits(), 1), k = op.getK();
  reference::Routing routing = reference::route(floats(op.getLogits()), experts, k, rounding);
  if (failed(define(op, op.getExperts(), {{tokens, k}, std::move(routing.experts)})))
    return failure();
  return define(op, op.getScores(), {{tokens, k}, std::move(routing.scores)});
}

LogicalResult FunctionRun::evaluate(ExpertsOp op) {
  int64_t channels = dim(op.getX(), 1), width = dim(op.getGate(), 1);
  if (failed(checkIndices(op, "expert", ints(op.getExperts()), dim(op.getGate(), 0))))
    return failure();
  return define(op, shape(op.getX()),
                reference::experts(floats(op.getX()), ints(op.getExperts()), floats(op.getScores()),
                                   floats(op.getGate()), floats(op.getUp()), floats(op.getDown()),
                                   channels, width, rounding));
}

LogicalResult FunctionRun::evaluate(SelectRowsOp op) {
  int64_t channels = dim(op.getX(), 1);
  if (failed(checkIndices(op, "row", ints(op.getRows()), dim(op.getX(), 0))))
    return failure();
  return define(op, {dim(op.getRows(), 0), channels},
                reference::selectRows(floats(op.getX()), ints(op.getRows()), channels));
}

//===----------------------------------------------------------------------===//
// Pictures, in the order of the vision tower's math
//===----------------------------------------------------------------------===//

template <typename PatchOp> static reference::Normalization normalizationOf(PatchOp op) {
  reference::Normalization normalization{op.getRescale().convertToFloat(), {}, {}};
  llvm::copy(op.getMean(), normalization.mean.begin());
  llvm::copy(op.getStd(), normalization.std.begin());
  return normalization;
}

LogicalResult FunctionRun::evaluate(PatchesOp op) {
  const int64_t side = dim(op.getTiles(), 1), patch = op.getPatch(), grid = side / patch;
  return define(op, {dim(op.getTiles(), 0) * grid * grid, 3 * patch * patch},
                reference::patches(bytes(op.getTiles()), side, patch, normalizationOf(op)));
}

LogicalResult FunctionRun::evaluate(AppendClassOp op) {
  const int64_t grid = op.getGrid(), patches = grid * grid;
  return define(
      op, {dim(op.getX(), 0) / patches * (patches + 1), dim(op.getX(), 1)},
      reference::appendClass(floats(op.getX()), floats(op.getClassRow()), grid, rounding));
}

LogicalResult FunctionRun::evaluate(AddPositionsOp op) {
  return define(op, shape(op.getX()),
                reference::addPositions(floats(op.getX()), floats(op.getTable()), rounding));
}

LogicalResult FunctionRun::evaluate(LayerNormOp op) {
  return define(op, shape(op.getX()),
                reference::layerNorm(
                    floats(op.getX()),
                    {floats(op.getWeight()), floats(op.getBias()), op.getEps().convertToFloat()},
                    rounding));
}

LogicalResult FunctionRun::evaluate(LinearBiasOp op) {
  return define(op, {dim(op.getX(), 0), dim(op.getWeight(), 0)},
                reference::linearBias(floats(op.getX()), floats(op.getWeight()),
                                      floats(op.getBias()), rounding));
}

LogicalResult FunctionRun::evaluate(PatchRopeOp op) {
  const int64_t heads = op.getHeads();
  return define(op, shape(op.getX()),
                reference::patchRope(floats(op.getX()), heads, dim(op.getX(), 1) / heads,
                                     op.getGrid(), op.getTheta().convertToFloat(), rounding));
}

LogicalResult FunctionRun::evaluate(TileAttentionOp op) {
  const int64_t heads = op.getHeads();
  return define(op, shape(op.getQueries()),
                reference::tileAttention(floats(op.getQueries()), floats(op.getKeys()),
                                         floats(op.getValues()), heads,
                                         dim(op.getQueries(), 1) / heads, op.getGrid(), rounding));
}

LogicalResult FunctionRun::evaluate(GeluOp op) {
  return define(op, shape(op.getX()), reference::gelu(floats(op.getX()), rounding));
}

LogicalResult FunctionRun::evaluate(DropClassOp op) {
  const int64_t grid = op.getGrid(), patches = grid * grid, channels = dim(op.getX(), 1);
  return define(op, {dim(op.getX(), 0) / (patches + 1) * patches, channels},
                reference::dropClass(floats(op.getX()), channels, grid));
}

LogicalResult FunctionRun::evaluate(PixelShuffleOp op) {
  const int64_t channels = dim(op.getX(), 1);
  return define(op, {dim(op.getX(), 0) / 4, 4 * channels},
                reference::pixelShuffle(floats(op.getX()), channels, op.getGrid()));
}

//===----------------------------------------------------------------------===//
// Fused: whole blocks
//===----------------------------------------------------------------------===//

LogicalResult FunctionRun::evaluate(QkvOp op) {
  return define(op, {dim(op.getX(), 0), dim(op.getWeight(), 0)},
                reference::qkv(floats(op.getX()), floats(op.getNorm()), floats(op.getWeight()),
                               op.getEps().convertToFloat(), rounding));
}

LogicalResult FunctionRun::evaluate(AttentionBlockOp op) {
  FailureOr<reference::KvCache *> cache = cacheOf(op, op.getCacheAttr());
  if (failed(cache))
    return failure();
  int64_t tokens = dim(op.getQkv(), 0);
  int64_t channels = (*cache)->heads * (*cache)->headDim;
  if (dim(op.getQkv(), 1) < 2 * channels || dim(op.getQkv(), 1) % channels != 0)
    return op.emitOpError() << "has " << dim(op.getQkv(), 1)
                            << " channels in this run, expected a multiple of " << channels
                            << " and at least " << 2 * channels;
  if (failed(checkIndices(op, "position", ints(op.getPositions()), INT32_MAX)))
    return failure();

  reference::AttentionOptions options;
  if (Value table = op.getTable())
    options.ropeTable = floats(table);
  if (op.getQkNorm())
    options.qkNormEps = op.getQkNorm()->convertToFloat();
  if (op.getTemperatureScale())
    options.temperature = {op.getTemperatureScale()->convertToFloat(),
                           op.getTemperatureFloor()->convertToFloat()};
  return define(op, {tokens, dim(op.getQkv(), 1) - 2 * channels},
                reference::attentionBlock(**cache, floats(op.getQkv()), ints(op.getPositions()),
                                          ints(op.getSequences()), options, rounding));
}

LogicalResult FunctionRun::evaluate(LinearResidualOp op) {
  int64_t inputs = dim(op.getX(), 1);
  return define(op, shape(op.getResidual()),
                reference::linearResidual(floats(op.getX()), floats(op.getWeight()),
                                          floats(op.getResidual()), inputs, rounding));
}

LogicalResult FunctionRun::evaluate(MoeBlockOp op) {
  return define(op, shape(op.getX()),
                reference::moeBlock(floats(op.getX()), floats(op.getNorm()), floats(op.getRouter()),
                                    floats(op.getSharedGateUp()), floats(op.getGateUp()),
                                    floats(op.getSharedDown()), floats(op.getDown()), op.getK(),
                                    op.getEps().convertToFloat(), rounding));
}

LogicalResult FunctionRun::evaluate(MlpBlockOp op) {
  return define(op, shape(op.getX()),
                reference::mlpBlock(floats(op.getX()), floats(op.getNorm()), floats(op.getGateUp()),
                                    floats(op.getDown()), op.getEps().convertToFloat(), rounding));
}

LogicalResult FunctionRun::evaluate(HeadOp op) {
  if (failed(checkIndices(op, "row", ints(op.getRows()), dim(op.getX(), 0))))
    return failure();
  return define(op, {dim(op.getRows(), 0), dim(op.getWeight(), 0)},
                reference::head(floats(op.getX()), ints(op.getRows()), floats(op.getNorm()),
                                floats(op.getWeight()), op.getEps().convertToFloat(), rounding));
}

LogicalResult FunctionRun::evaluate(FinalNormOp op) {
  if (failed(checkIndices(op, "row", ints(op.getRows()), dim(op.getX(), 0))))
    return failure();
  return define(op, {dim(op.getRows(), 0), dim(op.getX(), 1)},
                reference::finalNorm(floats(op.getX()), ints(op.getRows()), floats(op.getNorm()),
                                     op.getEps().convertToFloat(), rounding));
}

//===----------------------------------------------------------------------===//
// Fused: pictures
//===----------------------------------------------------------------------===//

LogicalResult FunctionRun::evaluate(PatchEmbedOp op) {
  const int64_t side = dim(op.getTiles(), 1), patch = op.getPatch(), grid = side / patch;
  reference::PatchEmbedding weights{
      floats(op.getWeight()),
      floats(op.getClassRow()),
      floats(op.getPositions()),
      {floats(op.getNorm()), floats(op.getNormBias()), op.getEps().convertToFloat()}};
  return define(op, {dim(op.getTiles(), 0) * (grid * grid + 1), dim(op.getWeight(), 0)},
                reference::patchEmbed(bytes(op.getTiles()), side, patch, normalizationOf(op),
                                      weights, rounding));
}

LogicalResult FunctionRun::evaluate(TowerQkvOp op) {
  return define(op, {dim(op.getX(), 0), dim(op.getWeight(), 0)},
                reference::towerQkv(
                    floats(op.getX()),
                    {floats(op.getNorm()), floats(op.getNormBias()), op.getEps().convertToFloat()},
                    floats(op.getWeight()), floats(op.getBias()), op.getHeads(), op.getGrid(),
                    op.getTheta().convertToFloat(), rounding));
}

LogicalResult FunctionRun::evaluate(TowerAttentionOp op) {
  const int64_t heads = op.getHeads(), channels = dim(op.getQkv(), 1) / 3;
  if (dim(op.getQkv(), 1) % (3 * heads) != 0)
    return op.emitOpError() << "has " << dim(op.getQkv(), 1)
                            << " channels in this run, expected a multiple of " << 3 * heads;
  return define(op, {dim(op.getQkv(), 0), channels},
                reference::towerAttention(floats(op.getQkv()), heads, channels / heads,
                                          op.getGrid(), rounding));
}

LogicalResult FunctionRun::evaluate(ProjectionOp op) {
  reference::ProjectionOptions options;
  if (op.getNorm())
    options.norm = {floats(op.getNorm()), floats(op.getNormBias()), op.getEps()->convertToFloat()};
  if (op.getBias())
    options.bias = floats(op.getBias());
  options.gelu = op.getGelu();
  if (op.getResidual())
    options.residual = floats(op.getResidual());
  return define(op, {dim(op.getX(), 0), dim(op.getWeight(), 0)},
                reference::projection(floats(op.getX()), floats(op.getWeight()), dim(op.getX(), 1),
                                      options, rounding));
}

LogicalResult FunctionRun::evaluate(TowerOutputOp op) {
  const int64_t grid = op.getGrid(), tiles = dim(op.getX(), 0) / (grid * grid + 1);
  return define(op, {tiles * grid * grid / 4, 4 * dim(op.getX(), 1)},
                reference::towerOutput(
                    floats(op.getX()),
                    {floats(op.getNorm()), floats(op.getNormBias()), op.getEps().convertToFloat()},
                    grid, rounding));
}

LogicalResult FunctionRun::evaluate(Operation *op) {
  if (isa_and_present<MoeDialect>(op->getDialect()) && failed(verifyShapes(op)))
    return failure();
  return llvm::TypeSwitch<Operation *, LogicalResult>(op)
      .Case<LoadWeightOp, EmbedOp, RmsNormOp, LinearOp, RopeTableOp, RopeOp, HeadNormOp,
            TemperatureOp, AppendOp, AttentionOp, SwigluOp, AddOp, RouteOp, ExpertsOp, SelectRowsOp,
            PatchesOp, AppendClassOp, AddPositionsOp, LayerNormOp, LinearBiasOp, PatchRopeOp,
            TileAttentionOp, GeluOp, DropClassOp, PixelShuffleOp, QkvOp, AttentionBlockOp,
            LinearResidualOp, MoeBlockOp, MlpBlockOp, HeadOp, FinalNormOp, PatchEmbedOp, TowerQkvOp,
            TowerAttentionOp, ProjectionOp, TowerOutputOp>(
          [&](auto moeOp) { return evaluate(moeOp); })
      .Default([](Operation *other) {
        return other->emitOpError() << "is no op that the interpreter knows";
      });
}

//===----------------------------------------------------------------------===//
// Interpreter
//===----------------------------------------------------------------------===//

FailureOr<std::shared_ptr<const TensorValue>> Interpreter::weight(WeightOp weight) {
  if (auto found = weights.find(weight.getSymName()); found != weights.end())
    return found->second;
  if (!tensors)
    return weight.emitOpError() << "is needed, but there is no checkpoint to read it from";
  std::vector<float> elements(size_t(weight.getType().getNumElements()));
  if (failed(gatherWeight(weight, *tensors, elements)) ||
      failed(roundTo(weight.getType().getElementType(), elements)))
    return failure();
  if (std::optional<PackingAttr> packing = weight.getPacking())
    if (failed(roundTo(packing->getStorage(), elements)))
      return weight.emitOpError() << "is packed as " << packing->getStorage()
                                  << ", expected f32, f16 or bf16";
  auto value = std::make_shared<const TensorValue>(
      TensorValue{Shape(weight.getType().getShape()), std::move(elements)});
  weights.emplace(weight.getSymName().str(), value);
  return std::shared_ptr<const TensorValue>(value);
}

FailureOr<reference::KvCache *> Interpreter::cache(CacheOp cache) {
  if (auto found = caches.find(cache.getSymName()); found != caches.end())
    return &found->second;
  using Kept = reference::KvCache::Storage;
  Kept storage = Kept::Float32;
  switch (*storageOf(cache.getElement())) {
  case Storage::F32:
    break;
  case Storage::BF16:
    storage = Kept::Bfloat16;
    break;
  case Storage::I8:
    storage = Kept::Int8;
    break;
  default:
    return cache.emitOpError() << "keeps " << cache.getElement() << ", expected f32, bf16 or i8";
  }
  reference::KvCache empty(cache.getHeads(), cache.getHeadDim(), cache.getChunk().value_or(0),
                           storage);
  return &caches.emplace(cache.getSymName().str(), std::move(empty)).first->second;
}

FailureOr<std::vector<TensorValue>> Interpreter::runFunction(func::FuncOp function,
                                                             ArrayRef<TensorValue> arguments) {
  if (!llvm::hasSingleElement(function.getBody()))
    return function.emitOpError() << "is run, expected one block";
  FunctionRun run(*this);
  if (failed(run.bind(function, arguments)))
    return failure();
  for (Operation &op : function.front().without_terminator())
    if (failed(run.evaluate(&op)))
      return failure();
  std::vector<TensorValue> results;
  for (Value operand : function.front().getTerminator()->getOperands())
    results.push_back(run[operand]);
  return results;
}

FailureOr<std::vector<float>> Interpreter::run(StringRef function, ArrayRef<int32_t> tokens,
                                               ArrayRef<int32_t> positions,
                                               ArrayRef<int32_t> sequences,
                                               ArrayRef<int32_t> rows) {
  auto callee = module.lookupSymbol<func::FuncOp>(function);
  if (!callee)
    return module.emitError() << "has no function @" << function;
  std::vector<TensorValue> arguments;
  for (ArrayRef<int32_t> argument : {tokens, positions, sequences, rows})
    arguments.push_back({{int64_t(argument.size())}, std::vector<int32_t>(argument)});
  if (callee.getNumArguments() == 6) {
    auto images = dyn_cast<RankedTensorType>(callee.getArgumentTypes()[4]);
    if (images && images.getRank() == 2)
      arguments.push_back({{0, images.getDimSize(1)}, std::vector<float>()});
    arguments.push_back({{int64_t(tokens.size())}, std::vector<int32_t>(tokens.size(), -1)});
  }
  FailureOr<std::vector<TensorValue>> results = runFunction(callee, arguments);
  if (failed(results))
    return failure();
  if (results->size() != 1 ||
      !std::holds_alternative<std::vector<float>>(results->front().elements))
    return callee.emitOpError() << "is run as a model, expected the logits as its one result";
  return results->front().floats();
}
