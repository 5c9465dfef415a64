// Walks the fused functions once for each bucket of tokens or tiles, then writes what it found.
#include "compiler/targets/LowerToPlan.h"
#include "dialects/plan/Packing.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ADT/TypeSwitch.h"
#include <map>

using namespace mlir;

namespace moe::codegen {

// Chunked layers share a pool and so a chunk; the others share the pool of all positions.
LogicalResult LowerToPlan::placeCaches() {
  for (CacheOp op : model.getOps<CacheOp>()) {
    CachePlace place;
    place.spec.heads = op.getHeads();
    place.spec.headDim = op.getHeadDim();
    place.spec.storage = *storageOf(op.getElement());
    place.spec.chunk = op.getChunk().value_or(0);
    FailureOr<int64_t> layer = layerBytes(op, place.spec);
    if (failed(layer))
      return failure();
    if (op.getChunk()) {
      if (chunk && chunk != int64_t(*op.getChunk()))
        return op.emitOpError() << "has chunk " << *op.getChunk() << ", another layer has " << chunk
                                << ": one chunk for all layers is expected";
      chunk = *op.getChunk();
    }
    place.pool = op.getChunk() ? "chunked" : "global";
    auto &[layers, bytes] = pools[place.pool];
    place.offset = bytes;
    ++layers;
    bytes += *layer;
    caches[op.getSymName()] = place;
  }
  for (auto &entry : caches)
    entry.second.spec.pageBytes = pools[entry.second.pool].second;
  return success();
}

//===----------------------------------------------------------------------===//
// What fused ops use
//===----------------------------------------------------------------------===//

FailureOr<LowerToPlan::Weight> LowerToPlan::weight(OpOperand &operand) {
  auto load = operand.get().getDefiningOp<LoadWeightOp>();
  if (!load)
    return emitError(operand.get().getLoc())
           << "a weight of a fused op must come from moe.load_weight";
  auto uses = cast<WeightUser>(operand.getOwner()).getWeightUses();
  WeightRole role =
      llvm::find_if(uses, [&](const WeightUse &use) { return use.operand == &operand; })->role;
  auto op = model.lookupSymbol<WeightOp>(load.getWeight());
  if (!op.getPacking() || op.getPacking()->getRole() != role)
    return load.emitOpError() << "needs @" << load.getWeight() << " packed as "
                              << stringifyWeightRole(role)
                              << "; run --moe-pack-weights=target=" << device << " first";
  used.insert({op.getSymName(), op});
  return Weight{{.kind = Place::Weight, .symbol = op.getSymName()},
                op.getPacking()->getFormat().getFormat()};
}

FailureOr<LowerToPlan::Place> LowerToPlan::known(Operation *op, Value value) {
  auto it = places.find(value);
  if (it == places.end())
    return op->emitOpError("reads a value that no kernel wrote");
  return it->second;
}

FailureOr<LowerToPlan::Place> LowerToPlan::updated(Operation *op, Value before, Value after) {
  FailureOr<Place> place = known(op, before);
  if (failed(place))
    return failure();
  for (Operation *user : before.getUsers())
    if (user != op && op->isBeforeInBlock(user))
      return op->emitOpError(
                   "updates the residual stream in place, but its old value is used later")
                 .attachNote(user->getLoc())
             << "here";
  places[after] = *place;
  return *place;
}

FailureOr<QkvOp> LowerToPlan::qkvOf(AttentionBlockOp op) {
  auto qkv = op.getQkv().getDefiningOp<QkvOp>();
  if (!qkv || !qkv->hasOneUse())
    return op.emitOpError("needs a moe.qkv of its own as its operand");
  return qkv;
}

FailureOr<WeightFormat> LowerToPlan::outputOf(AttentionBlockOp op) {
  auto projection = op.getResult().hasOneUse()
                        ? dyn_cast<LinearResidualOp>(*op.getResult().user_begin())
                        : LinearResidualOp();
  if (!projection)
    return op.emitOpError("needs a moe.linear_residual as the one reader of its result");
  auto w = weight(projection.getWeightMutable());
  if (failed(w))
    return failure();
  return w->format;
}

LogicalResult LowerToPlan::take(EmbedOp op) {
  auto table = weight(op.getTableMutable());
  if (failed(table))
    return failure();
  Embedding use{op, *table, dim(op.getResult(), 1), {}, {}};
  if (op.getImages()) {
    use.imageRows = input(plan::InputName::ImageRows);
    use.images = {.kind = Place::Input,
                  .spec = plan::stepImages(model.getContext(), mostTokens, use.hidden)};
  }
  auto h = lower(use);
  if (failed(h))
    return failure();
  places[op.getResult()] = *h;
  return success();
}

LogicalResult LowerToPlan::take(RopeTableOp op) {
  auto table = lower(op, RopeTable{SmallVector<float>(op.getFrequencies())});
  if (failed(table))
    return failure();
  places[op.getResult()] = *table;
  return success();
}

LogicalResult LowerToPlan::take(AttentionBlockOp op) {
  auto qkv = qkvOf(op);
  if (failed(qkv))
    return failure();
  auto norm = weight(qkv->getNormMutable());
  auto w = weight(qkv->getWeightMutable());
  auto h = known(*qkv, qkv->getX());
  auto output = outputOf(op);
  if (failed(norm) || failed(w) || failed(h) || failed(output))
    return failure();
  const CachePlace &cache = cacheOf(op);
  FinishSpec finish{.heads = dim(op.getResult(), 1) / cache.spec.headDim,
                    .cache = cache.spec,
                    .rope = bool(op.getTable()),
                    .qkNorm = std::nullopt,
                    .temperature = std::nullopt};
  if (auto eps = op.getQkNorm())
    finish.qkNorm = eps->convertToFloat();
  if (auto scale = op.getTemperatureScale())
    finish.temperature = {scale->convertToFloat(), op.getTemperatureFloor()->convertToFloat()};
  std::optional<Place> ropeTable;
  if (op.getTable()) {
    auto table = known(op, op.getTable());
    if (failed(table))
      return failure();
    ropeTable = *table;
  }
  auto out = lower(Attention{*qkv, op, *norm, *w, *h, ropeTable, cache, *output,
                             dim(qkv->getX(), 1), qkv->getEps().convertToFloat(), finish});
  if (failed(out))
    return failure();
  places[op.getResult()] = *out;
  return success();
}

LogicalResult LowerToPlan::take(LinearResidualOp op) {
  auto w = weight(op.getWeightMutable());
  auto x = known(op, op.getX());
  auto h = updated(op, op.getResidual(), op.getResult());
  if (failed(w) || failed(x) || failed(h))
    return failure();
  auto attention = op.getX().getDefiningOp<AttentionBlockOp>();
  if (!attention)
    return op.emitOpError("is only supported on the result of moe.attention_block");
  return lower(LinearResidual{op, *w, *x, *h, dim(op.getX(), 1), dim(op.getResult(), 1),
                              cacheOf(attention).spec});
}

LogicalResult LowerToPlan::take(MoeBlockOp op) {
  auto norm = weight(op.getNormMutable());
  auto router = weight(op.getRouterMutable());
  auto sharedGateUp = weight(op.getSharedGateUpMutable());
  auto gateUp = weight(op.getGateUpMutable());
  auto sharedDown = weight(op.getSharedDownMutable());
  auto down = weight(op.getDownMutable());
  auto h = updated(op, op.getX(), op.getResult());
  if (failed(norm) || failed(router) || failed(sharedGateUp) || failed(gateUp) ||
      failed(sharedDown) || failed(down) || failed(h))
    return failure();
  if (router->format != WeightFormat{Storage::F32})
    return op.emitOpError("needs its router packed in f32");
  return lower(FeedForward{op, dim(op.getX(), 1), dim(op.getDown(), 2), dim(op.getRouter(), 0),
                           int64_t(op.getK()), op.getEps().convertToFloat(), *norm, *sharedGateUp,
                           *sharedDown, *h, *router, *gateUp, *down});
}

LogicalResult LowerToPlan::take(MlpBlockOp op) {
  auto norm = weight(op.getNormMutable());
  auto gateUp = weight(op.getGateUpMutable());
  auto down = weight(op.getDownMutable());
  auto h = updated(op, op.getX(), op.getResult());
  if (failed(norm) || failed(gateUp) || failed(down) || failed(h))
    return failure();
  return lower(FeedForward{op, dim(op.getX(), 1), dim(op.getDown(), 1), /*experts=*/0, /*k=*/0,
                           op.getEps().convertToFloat(), *norm, *gateUp, *down, *h});
}

LogicalResult LowerToPlan::take(HeadOp op) {
  auto norm = weight(op.getNormMutable());
  auto w = weight(op.getWeightMutable());
  auto h = known(op, op.getX());
  if (failed(norm) || failed(w) || failed(h))
    return failure();
  return lower(Head{op, *norm, *w, *h, dim(op.getX(), 1), dim(op.getResult(), 1),
                    op.getEps().convertToFloat()});
}

LogicalResult LowerToPlan::take(FinalNormOp op) {
  auto norm = weight(op.getNormMutable());
  auto h = known(op, op.getX());
  if (failed(norm) || failed(h))
    return failure();
  return lower(HiddenStates{op, *norm, *h, dim(op.getX(), 1), op.getEps().convertToFloat()});
}

//===--- Pictures --------------------------------------------------------------------------------

FailureOr<LowerToPlan::Place> LowerToPlan::refuse(Operation *op) {
  return op->emitError() << "there are no kernels for pictures on " << device
                         << ": compile with --no-vision to leave them out";
}

FailureOr<WeightFormat> LowerToPlan::projectionOf(Operation *op) {
  Value result = op->getResult(0);
  auto reader = result.hasOneUse() ? dyn_cast<ProjectionOp>(*result.user_begin()) : ProjectionOp();
  if (!reader || reader.getNorm() || reader.getX() != result)
    return op->emitOpError("needs a moe.projection without a norm as the one reader of its result");
  auto w = weight(reader.getWeightMutable());
  if (failed(w))
    return failure();
  return w->format;
}

LogicalResult LowerToPlan::take(PatchEmbedOp op) {
  auto w = weight(op.getWeightMutable());
  auto classRow = weight(op.getClassRowMutable());
  auto positions = weight(op.getPositionsMutable());
  auto norm = weight(op.getNormMutable());
  auto normBias = weight(op.getNormBiasMutable());
  if (failed(w) || failed(classRow) || failed(positions) || failed(norm) || failed(normBias))
    return failure();
  const int64_t side = dim(op.getTiles(), 1);
  Place tiles{.kind = Place::Input, .spec = plan::visionTiles(model.getContext(), side)};
  auto h = lower(PatchEmbedding{op, *w, *classRow, *positions, *norm, *normBias, tiles,
                                side / int64_t(op.getPatch()), dim(op.getResult(), 1)});
  if (failed(h))
    return failure();
  places[op.getResult()] = *h;
  tileRows[op.getResult()] = dim(op.getPositions(), 0);
  return success();
}

LogicalResult LowerToPlan::take(TowerAttentionOp op) {
  auto qkv = op.getQkv().getDefiningOp<TowerQkvOp>();
  if (!qkv || !qkv->hasOneUse() || qkv.getHeads() != op.getHeads() || qkv.getGrid() != op.getGrid())
    return op.emitOpError("needs a moe.tower_qkv of its own, of the same heads and grid, as its "
                          "operand");
  auto norm = weight(qkv.getNormMutable());
  auto normBias = weight(qkv.getNormBiasMutable());
  auto w = weight(qkv.getWeightMutable());
  auto bias = weight(qkv.getBiasMutable());
  auto h = known(qkv, qkv.getX());
  auto output = projectionOf(op);
  if (failed(norm) || failed(normBias) || failed(w) || failed(bias) || failed(h) || failed(output))
    return failure();
  auto out = lower(TowerAttention{qkv, op, *norm, *normBias, *w, *bias, *h, dim(qkv.getX(), 1),
                                  dim(op.getResult(), 1) / int64_t(op.getHeads()), *output});
  if (failed(out))
    return failure();
  places[op.getResult()] = *out;
  tileRows[op.getResult()] = tileRows.lookup(qkv.getX());
  return success();
}

LogicalResult LowerToPlan::take(ProjectionOp op) {
  auto w = weight(op.getWeightMutable());
  auto x = known(op, op.getX());
  if (failed(w) || failed(x))
    return failure();
  Projection use{
      op, *w, {}, {}, {}, *x, tileRows.lookup(op.getX()), dim(op.getX(), 1), dim(op.getResult(), 1),
      {}, {}};
  auto optional = [&](MutableOperandRange operand, std::optional<Weight> &to) {
    for (OpOperand &use : operand) {
      auto found = weight(use);
      if (failed(found))
        return failure();
      to = *found;
    }
    return success();
  };
  if (failed(optional(op.getNormMutable(), use.norm)) ||
      failed(optional(op.getNormBiasMutable(), use.normBias)) ||
      failed(optional(op.getBiasMutable(), use.bias)))
    return failure();
  if (op.getResidual()) {
    auto h = updated(op, op.getResidual(), op.getResult());
    if (failed(h))
      return failure();
    use.h = *h;
  } else if (!op.getResult().hasOneUse() || !isa<func::ReturnOp>(*op.getResult().user_begin())) {
    auto next = projectionOf(op);
    if (failed(next))
      return failure();
    use.next = *next;
  }
  auto result = lower(use);
  if (failed(result))
    return failure();
  places[op.getResult()] = *result;
  tileRows[op.getResult()] = use.rows;
  return success();
}

LogicalResult LowerToPlan::take(TowerOutputOp op) {
  auto norm = weight(op.getNormMutable());
  auto normBias = weight(op.getNormBiasMutable());
  auto h = known(op, op.getX());
  auto output = projectionOf(op);
  if (failed(norm) || failed(normBias) || failed(h) || failed(output))
    return failure();
  const auto grid = int64_t(op.getGrid());
  auto x = lower(TowerRows{op, *norm, *normBias, *h, grid, dim(op.getX(), 1), *output});
  if (failed(x))
    return failure();
  places[op.getResult()] = *x;
  tileRows[op.getResult()] = grid * grid / 4;
  return success();
}

LogicalResult LowerToPlan::lowerOp(Operation &op) {
  return llvm::TypeSwitch<Operation *, LogicalResult>(&op)
      .Case<EmbedOp, RopeTableOp, AttentionBlockOp, LinearResidualOp, MoeBlockOp, MlpBlockOp,
            HeadOp, FinalNormOp, PatchEmbedOp, TowerAttentionOp, ProjectionOp, TowerOutputOp>(
          [&](auto typed) { return take(typed); })
      .Default([](Operation *other) {
        return other->emitOpError("has no kernel: fuse the model first (moe-opt --moe-fuse)");
      });
}

bool LowerToPlan::call(const std::string &kernel, const Operands &operands,
                       ArrayRef<Argument> arguments, std::optional<int64_t> blocks) {
  assert(operands.size() == arguments.size());
  Call call{kernel, {}, blocks};
  for (Operand operand : operands) {
    auto *argument =
        llvm::find_if(arguments, [&](const Argument &a) { return a.operand == operand; });
    assert(argument != arguments.end() && "a call passes all operands of its kernel");
    call.operands.push_back(argument->place);
  }
  programs.back().calls.push_back(std::move(call));
  return kernels.insert({kernel, operands.size()}).second;
}

//===----------------------------------------------------------------------===//
// Programs
//===----------------------------------------------------------------------===//

LogicalResult LowerToPlan::lowerProgram(func::FuncOp function, plan::ProgramKind kind,
                                        int64_t tokens, int64_t rows) {
  programs.push_back({kind, tokens, rows, {}, {}});
  places.clear();
  for (Operation &op : function.getBody().front())
    if (!isa<LoadWeightOp, QkvOp, TowerQkvOp, func::ReturnOp>(op) && failed(lowerOp(op)))
      return failure();
  return success();
}

LogicalResult LowerToPlan::lowerPrograms(int64_t maxStep) {
  auto step = model.lookupSymbol<func::FuncOp>("step");
  if (!step)
    return model.emitError("has no function @step");
  auto heads = step.getBody().getOps<HeadOp>();
  if (heads.empty())
    return step.emitError("computes no logits: it needs a moe.head");
  if (failed(placeCaches()))
    return failure();
  vocabulary = dim((*heads.begin()).getResult(), 1);
  mostTokens = maxStep;
  // First, so that a device without kernels for pictures says so.
  if (auto vision = model.lookupSymbol<func::FuncOp>("vision"))
    for (int64_t tiles : {1, 4, 16})
      if (failed(lowerProgram(vision, plan::ProgramKind::Vision, tiles, /*rows=*/0)))
        return failure();
  for (int64_t bucket = 1;; bucket *= 2) {
    int64_t tokens = std::min(bucket, maxStep);
    // Logits of at most 64 MiB a step.
    int64_t rows = std::clamp<int64_t>((int64_t(64) << 20) / (vocabulary * 4), 1, tokens);
    if (failed(lowerProgram(step, plan::ProgramKind::Step, tokens, rows)))
      return failure();
    if (bucket >= maxStep)
      return success();
  }
}

//===----------------------------------------------------------------------===//
// Writing
//===----------------------------------------------------------------------===//

std::string LowerToPlan::symbolOf(StringRef name) const { return (device + "." + name).str(); }

void LowerToPlan::writeTensors(OpBuilder &builder) {
  int64_t offset = 0;
  for (auto &[name, op] : used) {
    Layout layout = layoutOf(op.getPacking()->getRole());
    auto packing =
        plan::PackingAttr::get(op.getContext(), layout, op.getPacking()->getFormat(),
                               layout == Layout::PanelHeads ? op.getPacking()->getHeadDim() : 0);
    int64_t bytes = packedBytes(cast<RankedTensorType>(op.getType()), packing);
    plan::TensorOp::create(builder, op.getLoc(), symbolOf(name), offset, bytes, op.getType(),
                           packing, device);
    offset += llvm::alignTo(bytes, plan::kPlaceAlignment);
  }
}

void LowerToPlan::writeProgram(OpBuilder &builder, const Program &program, int64_t scratchBytes) {
  Location loc = model.getLoc();
  llvm::SetVector<Attribute> inputs, outputs; // that the calls use
  for (const Call &call : program.calls)
    for (const Place &operand : call.operands) {
      if (operand.kind == Place::Input)
        inputs.insert(operand.spec);
      if (operand.kind == Place::Output)
        outputs.insert(operand.spec);
    }
  const bool step = program.kind == plan::ProgramKind::Step;
  auto op = plan::ProgramOp::create(
      builder, loc, symbolOf((step ? "" : "vision.") + std::to_string(program.tokens)),
      program.kind, device, program.tokens, program.rows, scratchBytes, IntegerAttr(),
      builder.getArrayAttr(inputs.getArrayRef()), builder.getArrayAttr(outputs.getArrayRef()));
  OpBuilder body = OpBuilder::atBlockEnd(&op.getBody().emplaceBlock());
  Type type = plan::BufferType::get(model.getContext());
  SmallVector<Value> allocated(program.buffers.size());
  for (const Call &call : program.calls) {
    SmallVector<Value> operands;
    for (const Place &operand : call.operands) {
      switch (operand.kind) {
      case Place::Input:
        operands.push_back(plan::InputOp::create(body, loc, type, operand.spec.getName()));
        break;
      case Place::Output:
        operands.push_back(plan::OutputOp::create(body, loc, type, operand.spec.getName()));
        break;
      case Place::Weight:
        operands.push_back(plan::WeightOp::create(body, loc, type, symbolOf(operand.symbol)));
        break;
      case Place::Cache:
        operands.push_back(
            plan::CacheOp::create(body, loc, type, symbolOf(operand.symbol), operand.offset));
        break;
      case Place::Counters:
        operands.push_back(plan::CountersOp::create(body, loc, type, operand.bytes));
        break;
      case Place::Arena: {
        Value &value = allocated[operand.buffer];
        if (!value)
          value = plan::AllocOp::create(body, loc, type, program.buffers[operand.buffer],
                                        IntegerAttr());
        operands.push_back(value);
      }
      }
    }
    plan::CallOp::create(body, loc, symbolOf(call.kernel), operands,
                         call.blocks ? body.getI64IntegerAttr(*call.blocks) : IntegerAttr());
  }
}

OwningOpRef<ModuleOp>
LowerToPlan::writeModule(function_ref<int64_t(StringRef, int64_t)> scratchBytes) {
  OwningOpRef<ModuleOp> module = ModuleOp::create(model.getLoc());
  for (StringRef name : {"moe.model", "moe.vision"})
    if (Attribute facts = model->getAttr(name))
      (*module)->setAttr(name, facts);
  OpBuilder builder(module->getBodyRegion());
  Location loc = model.getLoc();
  writeTensors(builder);
  for (auto &[name, pool] : pools)
    if (name == "chunked")
      plan::PoolOp::create(builder, loc, symbolOf(name), plan::PoolClass::Chunk,
                           builder.getI64IntegerAttr(chunk), pool.first, kPageTokens, pool.second,
                           device);
    else
      plan::PoolOp::create(builder, loc, symbolOf(name), plan::PoolClass::AllPositions,
                           IntegerAttr(), pool.first, kPageTokens, pool.second, device);
  for (const auto &[name, operands] : kernels)
    plan::KernelOp::create(builder, loc, symbolOf(name), device, operands, grids);
  std::map<plan::ProgramKind, llvm::StringSet<>> called;
  for (const Program &program : programs)
    for (const Call &call : program.calls)
      called[program.kind].insert(call.kernel);
  for (const Program &program : programs) {
    int64_t scratch = 0;
    for (const auto &kernel : called[program.kind])
      scratch = std::max(scratch, scratchBytes(kernel.first(), program.tokens));
    writeProgram(builder, program, scratch);
  }
  return module;
}

} // namespace moe::codegen
