// Walks the fused step function once to choose kernels, then writes a program for each token
// bucket.
#include "compiler/codegen/LowerToPlan.h"
#include "compiler/codegen/Kernels.h"
#include "dialects/moe/MoeOps.h"
#include "dialects/moe/Packing.h"
#include "dialects/plan/PlanDialect.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Verifier.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;

namespace moe::codegen {

namespace {

// Memory that a kernel works on: one of these, or a value of the model.
struct Operand {
  enum Kind { Input, Weight, Cache, Value, Logits } kind;
  plan::InputName input{};
  StringRef symbol{}; // Weight: the moe.weight. Cache: the pool
  int64_t offset = 0; // Cache: of the layer in a page
  int64_t value = 0;  // Value: index into Lowering::values
};

// A buffer of the arena. Its size goes by the tokens of the step.
struct ValueBuffer {
  int64_t bytesPerToken;
};

struct CallSpec {
  int64_t kernel;
  SmallVector<Operand> operands;
};

// A layer's place in its pool.
struct CachePlace {
  CacheSpec spec;
  StringRef pool;
  int64_t offset;
};

class Lowering {
public:
  Lowering(ModuleOp model, const PlanOptions &options) : model(model), options(options) {}
  FailureOr<PlanIr> run();

private:
  LogicalResult placeCaches();
  LogicalResult lower(Operation &op);
  LogicalResult lower(EmbedOp op);
  LogicalResult lower(RopeTableOp op);
  LogicalResult lower(AttentionBlockOp op);
  LogicalResult lower(LinearResidualOp op);
  LogicalResult lower(MoeBlockOp op);
  LogicalResult lower(MlpBlockOp op);
  LogicalResult lower(HeadOp op);
  LogicalResult emitKernels(PlanIr &plan);
  void writeTensors(OpBuilder &builder);
  void writeProgram(OpBuilder &builder, int64_t tokens, PlanIr &plan);

  Operand input(plan::InputName name) { return {.kind = Operand::Input, .input = name}; }
  FailureOr<Operand> weight(Value value, Layout layout);
  Operand newValue(int64_t bytesPerToken) {
    values.push_back({bytesPerToken});
    return {.kind = Operand::Value, .value = int64_t(values.size()) - 1};
  }
  // The residual stream is updated in place, so nothing may read the old value afterwards.
  FailureOr<Operand> updated(Operation *op, Value before, Value after);
  void call(KernelSpec spec, ArrayRef<Operand> operands);

  ModuleOp model;
  const PlanOptions &options;
  llvm::StringMap<CachePlace> caches;
  llvm::MapVector<StringRef, std::pair<int64_t, int64_t>> pools; // name: layers, bytes of a page
  int64_t chunk = 0, vocabulary = 0;
  DenseMap<Value, Operand> known;
  std::vector<ValueBuffer> values;
  std::vector<CallSpec> calls;
  std::vector<KernelSpec> specs;
  llvm::StringMap<int64_t> kernelOf;
  llvm::MapVector<StringRef, WeightOp> used; // in the order of first use
};

} // namespace

static Storage storageOf(Type type) { return type.isF32() ? Storage::F32 : Storage::BF16; }

static int64_t dim(Value value, unsigned i) {
  return cast<RankedTensorType>(value.getType()).getDimSize(i);
}

// Chunked layers share a pool and so a chunk; the others share the pool of all positions.
LogicalResult Lowering::placeCaches() {
  for (CacheOp op : model.getOps<CacheOp>()) {
    CachePlace place;
    place.spec.heads = op.getHeads();
    place.spec.headDim = op.getHeadDim();
    place.spec.storage = storageOf(op.getElement());
    place.spec.chunk = op.getChunk().value_or(0);
    if (place.spec.headDim % 2)
      return op.emitOpError() << "has head dimension " << place.spec.headDim
                              << ", and the kernels need an even one";
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
    bytes += place.spec.layerBytes();
    caches[op.getSymName()] = place;
  }
  for (auto &entry : caches)
    entry.second.spec.pageBytes = pools[entry.second.pool].second;
  return success();
}

FailureOr<Operand> Lowering::weight(Value value, Layout layout) {
  auto load = value.getDefiningOp<LoadWeightOp>();
  if (!load)
    return emitError(value.getLoc()) << "a weight of a fused op must come from moe.load_weight";
  auto op = model.lookupSymbol<WeightOp>(load.getWeight());
  if (!op.getPacking() || op.getPacking()->getLayout() != layout)
    return load.emitOpError() << "needs @" << load.getWeight() << " packed as "
                              << stringifyLayout(layout) << "; run --moe-pack-weights first";
  used.insert({op.getSymName(), op});
  return Operand{.kind = Operand::Weight, .symbol = op.getSymName()};
}

static Storage storageOfWeight(ModuleOp model, Operand operand) {
  return storageOf(model.lookupSymbol<WeightOp>(operand.symbol).getPacking()->getStorage());
}

FailureOr<Operand> Lowering::updated(Operation *op, Value before, Value after) {
  auto it = known.find(before);
  if (it == known.end())
    return op->emitOpError("reads a value that no kernel wrote");
  for (Operation *user : before.getUsers())
    if (user != op && op->isBeforeInBlock(user))
      return op->emitOpError(
                   "updates the residual stream in place, but its old value is used later")
                 .attachNote(user->getLoc())
             << "here";
  known[after] = it->second;
  return it->second;
}

void Lowering::call(KernelSpec spec, ArrayRef<Operand> operands) {
  std::string name = nameOf(spec);
  auto [it, isNew] = kernelOf.try_emplace(name, specs.size());
  if (isNew)
    specs.push_back(spec);
  assert(operandsOf(spec) == int64_t(operands.size()));
  calls.push_back({it->second, SmallVector<Operand>(operands)});
}

LogicalResult Lowering::lower(EmbedOp op) {
  auto table = weight(op.getTable(), Layout::Rows);
  if (failed(table))
    return failure();
  int64_t hidden = dim(op.getResult(), 1);
  Operand h = known[op.getResult()] = newValue(padded(hidden) * 4);
  call(EmbedSpec{hidden, storageOfWeight(model, *table)},
       {input(plan::InputName::Tokens), *table, h});
  return success();
}

LogicalResult Lowering::lower(RopeTableOp op) {
  RopeTableSpec spec{SmallVector<float>(op.getFrequencies())};
  Operand table = known[op.getResult()] = newValue(padded(2 * spec.frequencies.size()) * 4);
  call(spec, {input(plan::InputName::Positions), table});
  return success();
}

// On a CPU the projections finish the heads that they make, so q, k and v never leave as raw sums.
LogicalResult Lowering::lower(AttentionBlockOp op) {
  auto qkv = op.getQkv().getDefiningOp<QkvOp>();
  if (!qkv || !qkv->hasOneUse())
    return op.emitOpError("needs a moe.qkv of its own as its operand");
  auto norm = weight(qkv.getNorm(), Layout::Rows);
  auto w = weight(qkv.getWeight(), Layout::PanelHeads);
  auto h = known.find(qkv.getX());
  if (failed(norm) || failed(w))
    return failure();
  if (h == known.end())
    return qkv.emitOpError("reads a value that no kernel wrote");
  const CachePlace &place = caches.find(op.getCache())->second;
  const CacheSpec &cache = place.spec;
  Storage storage = storageOfWeight(model, *w);
  int64_t heads = dim(op.getResult(), 1) / cache.headDim;

  QkvSpec spec{.hidden = dim(qkv.getX(), 1),
               .heads = heads,
               .storage = storage,
               .cache = cache,
               .eps = qkv.getEps().convertToFloat(),
               .rope = bool(op.getTable()),
               .qkNorm = std::nullopt,
               .temperature = std::nullopt};
  if (auto eps = op.getQkNorm())
    spec.qkNorm = eps->convertToFloat();
  if (auto scale = op.getTemperatureScale())
    spec.temperature = {scale->convertToFloat(), op.getTemperatureFloor()->convertToFloat()};

  Operand positions = input(plan::InputName::Positions);
  Operand sequences = input(plan::InputName::Sequences);
  Operand blocks =
      input(cache.chunk ? plan::InputName::ChunkedTable : plan::InputName::GlobalTable);
  Operand pages{.kind = Operand::Cache, .symbol = place.pool, .offset = place.offset};
  int64_t bytes = bytesOf(cache.storage);
  Operand q = newValue(heads * padded(cache.headDim) * bytes);
  SmallVector<Operand> operands{positions, sequences, blocks, h->second, *norm, *w, q, pages};
  if (op.getTable())
    operands.push_back(known[op.getTable()]);
  call(spec, operands);
  Operand out = newValue(padded(heads * cache.headDim) * bytesOf(storage));
  known[op.getResult()] = out;
  call(AttentionSpec{heads, storage, cache}, {positions, sequences, blocks, q, pages, out});
  return success();
}

LogicalResult Lowering::lower(LinearResidualOp op) {
  auto w = weight(op.getWeight(), Layout::Panel);
  auto h = updated(op, op.getResidual(), op.getResult());
  if (failed(w) || failed(h))
    return failure();
  auto x = known.find(op.getX());
  if (x == known.end() || !op.getX().getDefiningOp<AttentionBlockOp>())
    return op.emitOpError("is only supported on the result of moe.attention_block");
  call(LinearResidualSpec{dim(op.getX(), 1), dim(op.getResult(), 1), storageOfWeight(model, *w)},
       {x->second, *w, *h});
  return success();
}

LogicalResult Lowering::lower(MoeBlockOp op) {
  auto norm = weight(op.getNorm(), Layout::Rows);
  auto router = weight(op.getRouter(), Layout::Panel);
  auto gateUp = weight(op.getGateUp(), Layout::PanelGateUp);
  auto down = weight(op.getDown(), Layout::Panel);
  auto h = updated(op, op.getX(), op.getResult());
  if (failed(norm) || failed(router) || failed(gateUp) || failed(down) || failed(h))
    return failure();
  if (storageOfWeight(model, *router) != Storage::F32)
    return op.emitOpError("needs its router packed in f32");
  Storage storage = storageOfWeight(model, *gateUp);
  int64_t hidden = dim(op.getX(), 1), width = dim(op.getDown(), 2);
  int64_t experts = dim(op.getRouter(), 0), k = op.getK();
  Operand wide = newValue((1 + k) * padded(width) * bytesOf(storage));
  Operand chosen = newValue(k * 4);
  call(GateUpSpec{hidden, width, experts, k, storage, op.getEps().convertToFloat()},
       {*h, *norm, *router, *gateUp, wide, chosen});
  call(DownSpec{hidden, width, experts, k, storage}, {wide, chosen, *down, *h});
  return success();
}

LogicalResult Lowering::lower(MlpBlockOp op) {
  auto norm = weight(op.getNorm(), Layout::Rows);
  auto gateUp = weight(op.getGateUp(), Layout::PanelGateUp);
  auto down = weight(op.getDown(), Layout::Panel);
  auto h = updated(op, op.getX(), op.getResult());
  if (failed(norm) || failed(gateUp) || failed(down) || failed(h))
    return failure();
  Storage storage = storageOfWeight(model, *gateUp);
  int64_t hidden = dim(op.getX(), 1), width = dim(op.getDown(), 1);
  Operand wide = newValue(padded(width) * bytesOf(storage));
  call(GateUpSpec{hidden, width, 0, 0, storage, op.getEps().convertToFloat()},
       {*h, *norm, *gateUp, wide});
  call(DownSpec{hidden, width, 0, 0, storage}, {wide, *down, *h});
  return success();
}

LogicalResult Lowering::lower(HeadOp op) {
  auto norm = weight(op.getNorm(), Layout::Rows);
  auto w = weight(op.getWeight(), Layout::Panel);
  auto h = known.find(op.getX());
  if (failed(norm) || failed(w))
    return failure();
  if (h == known.end())
    return op.emitOpError("reads a value that no kernel wrote");
  vocabulary = dim(op.getResult(), 1);
  call(HeadSpec{dim(op.getX(), 1), vocabulary, storageOfWeight(model, *w),
                op.getEps().convertToFloat()},
       {input(plan::InputName::Rows), h->second, *norm, *w, {.kind = Operand::Logits}});
  return success();
}

LogicalResult Lowering::lower(Operation &op) {
  return llvm::TypeSwitch<Operation *, LogicalResult>(&op)
      .Case<EmbedOp, RopeTableOp, AttentionBlockOp, LinearResidualOp, MoeBlockOp, MlpBlockOp,
            HeadOp>([&](auto typed) { return lower(typed); })
      .Case<LoadWeightOp, QkvOp, func::ReturnOp>([](auto) { return success(); })
      .Default([](Operation *other) {
        return other->emitOpError("has no kernel: fuse the model first (moe-opt --moe-fuse)");
      });
}

LogicalResult Lowering::emitKernels(PlanIr &plan) {
  for (const KernelSpec &spec : specs) {
    PlanKernel kernel(spec);
    for (const CpuTarget &target : options.targets) {
      kernel.modules.push_back(emitKernel(model.getContext(), spec, target));
      if (failed(mlir::verify(*kernel.modules.back())))
        return failure();
    }
    plan.kernels.push_back(std::move(kernel));
  }
  return success();
}

void Lowering::writeTensors(OpBuilder &builder) {
  int64_t offset = 0;
  for (auto &[name, op] : used) {
    int64_t bytes = packedBytes(cast<RankedTensorType>(op.getType()), *op.getPacking());
    plan::TensorOp::create(builder, op.getLoc(), name, offset, bytes, op.getType(), op.getSources(),
                           *op.getPacking());
    offset += llvm::alignTo(bytes, 64);
  }
}

void Lowering::writeProgram(OpBuilder &builder, int64_t tokens, PlanIr &plan) {
  // Logits of at most 64 MiB a step.
  int64_t rows = std::clamp<int64_t>((int64_t(64) << 20) / (vocabulary * 4), 1, tokens);
  int64_t scratch = 0;
  for (const PlanKernel &kernel : plan.kernels)
    for (auto &module : kernel.modules) {
      Operation *function = ModuleOp(*module).lookupSymbol(kernel.name);
      auto attr = [&](StringRef name) {
        return function->getAttrOfType<IntegerAttr>(name).getInt();
      };
      scratch = std::max(scratch, attr("moe.scratch_fixed") + tokens * attr("moe.scratch_per_row"));
    }
  Location loc = model.getLoc();
  auto program = plan::ProgramOp::create(builder, loc, "cpu." + std::to_string(tokens), "cpu",
                                         tokens, rows, scratch, IntegerAttr());
  OpBuilder body = OpBuilder::atBlockEnd(&program.getBody().emplaceBlock());
  Type buffer = plan::BufferType::get(model.getContext());
  SmallVector<Value> allocated(values.size());
  for (const CallSpec &call : calls) {
    SmallVector<Value> operands;
    for (const Operand &operand : call.operands) {
      switch (operand.kind) {
      case Operand::Input:
        operands.push_back(plan::InputOp::create(body, loc, buffer, operand.input));
        break;
      case Operand::Weight:
        operands.push_back(plan::WeightOp::create(body, loc, buffer, operand.symbol));
        break;
      case Operand::Cache:
        operands.push_back(
            plan::CacheOp::create(body, loc, buffer, operand.symbol, operand.offset));
        break;
      case Operand::Logits:
        operands.push_back(plan::LogitsOp::create(body, loc, buffer));
        break;
      case Operand::Value: {
        Value &value = allocated[operand.value];
        if (!value)
          value = plan::AllocOp::create(
              body, loc, buffer, tokens * values[operand.value].bytesPerToken, IntegerAttr());
        operands.push_back(value);
      }
      }
    }
    plan::CallOp::create(body, loc, plan.kernels[call.kernel].name, operands);
  }
}

FailureOr<PlanIr> Lowering::run() {
  auto step = model.lookupSymbol<func::FuncOp>("step");
  if (!step)
    return model.emitError("has no function @step");
  if (failed(placeCaches()))
    return failure();
  for (Operation &op : step.getBody().front())
    if (failed(lower(op)))
      return failure();
  if (!vocabulary)
    return step.emitError("computes no logits: it needs a moe.head");
  PlanIr plan;
  if (failed(emitKernels(plan)))
    return failure();
  plan.module = ModuleOp::create(model.getLoc());
  if (Attribute facts = model->getAttr("moe.model"))
    (*plan.module)->setAttr("moe.model", facts);
  OpBuilder builder(plan.module->getBodyRegion());
  Location loc = model.getLoc();
  writeTensors(builder);
  for (auto &[name, pool] : pools)
    plan::PoolOp::create(builder, loc, name, pool.first, kPageTokens, pool.second,
                         name == "chunked" ? builder.getI64IntegerAttr(chunk) : IntegerAttr());
  for (const PlanKernel &kernel : plan.kernels)
    plan::KernelOp::create(builder, loc, kernel.name, "cpu", operandsOf(kernel.spec));
  for (int64_t tokens = 1;; tokens *= 2) {
    writeProgram(builder, std::min(tokens, options.maxStep), plan);
    if (tokens >= options.maxStep)
      break;
  }
  return plan;
}

FailureOr<PlanIr> lowerToPlan(ModuleOp model, const PlanOptions &options) {
  return Lowering(model, options).run();
}

} // namespace moe::codegen
