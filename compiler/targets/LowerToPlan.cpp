// Walks the fused step function once for each token bucket, then writes what it found.
#include "compiler/targets/LowerToPlan.h"
#include "dialects/plan/Packing.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/SetVector.h"

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

FailureOr<LowerToPlan::Operand> LowerToPlan::weight(Value value, WeightRole role) {
  auto load = value.getDefiningOp<LoadWeightOp>();
  if (!load)
    return emitError(value.getLoc()) << "a weight of a fused op must come from moe.load_weight";
  auto op = model.lookupSymbol<WeightOp>(load.getWeight());
  if (!op.getPacking() || op.getPacking()->getRole() != role)
    return load.emitOpError() << "needs @" << load.getWeight() << " packed as "
                              << stringifyWeightRole(role)
                              << "; run --moe-pack-weights=target=" << device << " first";
  used.insert({op.getSymName(), op});
  return Operand{.kind = Operand::Weight, .symbol = op.getSymName()};
}

Storage LowerToPlan::storageOfWeight(Operand operand) {
  return *storageOf(used.lookup(operand.symbol).getPacking()->getStorage());
}

WeightFormat LowerToPlan::formatOf(Operand weight) {
  return used.lookup(weight.symbol).getPacking()->getFormat().getFormat();
}

FailureOr<LowerToPlan::Operand> LowerToPlan::known(Operation *op, Value value) {
  auto it = places.find(value);
  if (it == places.end())
    return op->emitOpError("reads a value that no kernel wrote");
  return it->second;
}

FailureOr<LowerToPlan::Operand> LowerToPlan::updated(Operation *op, Value before, Value after) {
  FailureOr<Operand> place = known(op, before);
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
  for (int64_t bucket = 1;; bucket *= 2) {
    int64_t tokens = std::min(bucket, maxStep);
    // Logits of at most 64 MiB a step.
    int64_t rows = std::clamp<int64_t>((int64_t(64) << 20) / (vocabulary * 4), 1, tokens);
    programs.push_back({tokens, rows, {}, {}});
    places.clear();
    for (Operation &op : step.getBody().front())
      if (!isa<LoadWeightOp, QkvOp, func::ReturnOp>(op) && failed(lower(op)))
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
    for (const Operand &operand : call.operands) {
      if (operand.kind == Operand::Input)
        inputs.insert(operand.spec);
      if (operand.kind == Operand::Output)
        outputs.insert(operand.spec);
    }
  auto op = plan::ProgramOp::create(
      builder, loc, symbolOf(std::to_string(program.tokens)), plan::ProgramKind::Step, device,
      program.tokens, program.rows, scratchBytes, IntegerAttr(),
      builder.getArrayAttr(inputs.getArrayRef()), builder.getArrayAttr(outputs.getArrayRef()));
  OpBuilder body = OpBuilder::atBlockEnd(&op.getBody().emplaceBlock());
  Type type = plan::BufferType::get(model.getContext());
  SmallVector<Value> allocated(program.buffers.size());
  for (const Call &call : program.calls) {
    SmallVector<Value> operands;
    for (const Operand &operand : call.operands) {
      switch (operand.kind) {
      case Operand::Input:
        operands.push_back(plan::InputOp::create(body, loc, type, operand.spec.getName()));
        break;
      case Operand::Output:
        operands.push_back(plan::OutputOp::create(body, loc, type, operand.spec.getName()));
        break;
      case Operand::Weight:
        operands.push_back(plan::WeightOp::create(body, loc, type, symbolOf(operand.symbol)));
        break;
      case Operand::Cache:
        operands.push_back(
            plan::CacheOp::create(body, loc, type, symbolOf(operand.symbol), operand.offset));
        break;
      case Operand::Counters:
        operands.push_back(plan::CountersOp::create(body, loc, type, operand.bytes));
        break;
      case Operand::Arena: {
        Value &value = allocated[operand.buffer];
        if (!value)
          value = plan::AllocOp::create(body, loc, type, program.buffers[operand.buffer],
                                        IntegerAttr());
        operands.push_back(value);
      }
      }
    }
    plan::CallOp::create(body, loc, call.kernel, operands,
                         call.blocks ? body.getI64IntegerAttr(*call.blocks) : IntegerAttr());
  }
}

OwningOpRef<ModuleOp> LowerToPlan::writeModule(ArrayRef<std::pair<std::string, int64_t>> kernels,
                                               function_ref<int64_t(int64_t)> scratchBytes) {
  OwningOpRef<ModuleOp> module = ModuleOp::create(model.getLoc());
  if (Attribute facts = model->getAttr("moe.model"))
    (*module)->setAttr("moe.model", facts);
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
    plan::KernelOp::create(builder, loc, name, device, operands, grids);
  for (const Program &program : programs)
    writeProgram(builder, program, scratchBytes(program.tokens));
  return module;
}

} // namespace moe::codegen
