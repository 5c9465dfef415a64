// Chooses the kernels of a CPU: the same ones for steps of any size.
#include "compiler/codegen/cpu/LowerToCpu.h"
#include "compiler/codegen/Kernels.h"
#include "compiler/codegen/LowerToPlan.h"
#include "mlir/IR/Verifier.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;

namespace moe::codegen {

namespace {

class LowerToCpu : public LowerToPlan {
public:
  LowerToCpu(ModuleOp model, ArrayRef<CpuTarget> targets)
      : LowerToPlan(model, "cpu"), targets(targets) {}
  FailureOr<CpuPlan> run(int64_t maxStep);

private:
  LogicalResult lower(Operation &op) override;
  FailureOr<int64_t> layerBytes(CacheOp op, const CacheSpec &cache) override;
  LogicalResult lower(EmbedOp op);
  LogicalResult lower(RopeTableOp op);
  LogicalResult lower(AttentionBlockOp op);
  LogicalResult lower(LinearResidualOp op);
  LogicalResult lower(MoeBlockOp op);
  LogicalResult lower(MlpBlockOp op);
  LogicalResult lower(HeadOp op);
  LogicalResult emitKernels();

  void call(const KernelSpec &spec, ArrayRef<Operand> operands) {
    std::string name = nameOf(spec);
    if (seen.insert(name).second)
      kernels.emplace_back(spec);
    assert(operandsOf(spec) == int64_t(operands.size()));
    LowerToPlan::call(name, operands);
  }

  ArrayRef<CpuTarget> targets;
  llvm::StringSet<> seen;
  std::vector<CpuPlanKernel> kernels;
};

} // namespace

FailureOr<int64_t> LowerToCpu::layerBytes(CacheOp op, const CacheSpec &cache) {
  if (cache.storage == Storage::F16)
    return op.emitOpError("keeps f16, and a CPU's kernels take f32 or bf16");
  if (cache.headDim % 2)
    return op.emitOpError() << "has head dimension " << cache.headDim
                            << ", and the kernels need an even one";
  return cache.layerBytes();
}

LogicalResult LowerToCpu::lower(EmbedOp op) {
  auto table = weight(op.getTable(), Layout::Rows);
  if (failed(table))
    return failure();
  int64_t hidden = dim(op.getResult(), 1);
  Operand h = newBuffer(tokens() * padded(hidden) * 4);
  write(op.getResult(), h);
  call(EmbedSpec{hidden, storageOfWeight(*table)}, {input(plan::InputName::Tokens), *table, h});
  return success();
}

LogicalResult LowerToCpu::lower(RopeTableOp op) {
  RopeTableSpec spec{SmallVector<float>(op.getFrequencies())};
  Operand table = newBuffer(tokens() * padded(2 * spec.frequencies.size()) * 4);
  write(op.getResult(), table);
  call(spec, {input(plan::InputName::Positions), table});
  return success();
}

// The projections finish the heads that they make, so q, k and v never leave as raw sums.
LogicalResult LowerToCpu::lower(AttentionBlockOp op) {
  auto qkv = qkvOf(op);
  if (failed(qkv))
    return failure();
  auto norm = weight(qkv->getNorm(), Layout::Rows);
  auto w = weight(qkv->getWeight(), Layout::PanelHeads);
  auto h = known(*qkv, qkv->getX());
  if (failed(norm) || failed(w) || failed(h))
    return failure();
  const CachePlace &place = cacheOf(op);
  const CacheSpec &cache = place.spec;
  Storage storage = storageOfWeight(*w);
  int64_t heads = dim(op.getResult(), 1) / cache.headDim;

  QkvSpec spec{.hidden = dim(qkv->getX(), 1),
               .heads = heads,
               .storage = storage,
               .cache = cache,
               .eps = qkv->getEps().convertToFloat(),
               .rope = bool(op.getTable()),
               .qkNorm = std::nullopt,
               .temperature = std::nullopt};
  if (auto eps = op.getQkNorm())
    spec.qkNorm = eps->convertToFloat();
  if (auto scale = op.getTemperatureScale())
    spec.temperature = {scale->convertToFloat(), op.getTemperatureFloor()->convertToFloat()};

  Operand positions = input(plan::InputName::Positions);
  Operand sequences = input(plan::InputName::Sequences);
  Operand blocks = tableOf(place), page = pages(place);
  Operand q = newBuffer(tokens() * heads * padded(cache.headDim) * bytesOf(cache.storage));
  SmallVector<Operand> operands{positions, sequences, blocks, *h, *norm, *w, q, page};
  if (op.getTable()) {
    auto table = known(op, op.getTable());
    if (failed(table))
      return failure();
    operands.push_back(*table);
  }
  call(spec, operands);
  Operand out = newBuffer(tokens() * padded(heads * cache.headDim) * bytesOf(storage));
  write(op.getResult(), out);
  call(AttentionSpec{heads, storage, cache}, {positions, sequences, blocks, q, page, out});
  return success();
}

LogicalResult LowerToCpu::lower(LinearResidualOp op) {
  auto w = weight(op.getWeight(), Layout::Panel);
  auto x = known(op, op.getX());
  auto h = updated(op, op.getResidual(), op.getResult());
  if (failed(w) || failed(x) || failed(h))
    return failure();
  if (!op.getX().getDefiningOp<AttentionBlockOp>())
    return op.emitOpError("is only supported on the result of moe.attention_block");
  call(LinearResidualSpec{dim(op.getX(), 1), dim(op.getResult(), 1), storageOfWeight(*w)},
       {*x, *w, *h});
  return success();
}

LogicalResult LowerToCpu::lower(MoeBlockOp op) {
  auto norm = weight(op.getNorm(), Layout::Rows);
  auto router = weight(op.getRouter(), Layout::Panel);
  auto gateUp = weight(op.getGateUp(), Layout::PanelGateUp);
  auto down = weight(op.getDown(), Layout::Panel);
  auto h = updated(op, op.getX(), op.getResult());
  if (failed(norm) || failed(router) || failed(gateUp) || failed(down) || failed(h))
    return failure();
  if (storageOfWeight(*router) != Storage::F32)
    return op.emitOpError("needs its router packed in f32");
  Storage storage = storageOfWeight(*gateUp);
  int64_t hidden = dim(op.getX(), 1), width = dim(op.getDown(), 2);
  int64_t experts = dim(op.getRouter(), 0), k = op.getK();
  Operand wide = newBuffer(tokens() * (1 + k) * padded(width) * bytesOf(storage));
  Operand chosen = newBuffer(tokens() * k * 4);
  call(GateUpSpec{hidden, width, experts, k, storage, op.getEps().convertToFloat()},
       {*h, *norm, *router, *gateUp, wide, chosen});
  call(DownSpec{hidden, width, experts, k, storage}, {wide, chosen, *down, *h});
  return success();
}

LogicalResult LowerToCpu::lower(MlpBlockOp op) {
  auto norm = weight(op.getNorm(), Layout::Rows);
  auto gateUp = weight(op.getGateUp(), Layout::PanelGateUp);
  auto down = weight(op.getDown(), Layout::Panel);
  auto h = updated(op, op.getX(), op.getResult());
  if (failed(norm) || failed(gateUp) || failed(down) || failed(h))
    return failure();
  Storage storage = storageOfWeight(*gateUp);
  int64_t hidden = dim(op.getX(), 1), width = dim(op.getDown(), 1);
  Operand wide = newBuffer(tokens() * padded(width) * bytesOf(storage));
  call(GateUpSpec{hidden, width, 0, 0, storage, op.getEps().convertToFloat()},
       {*h, *norm, *gateUp, wide});
  call(DownSpec{hidden, width, 0, 0, storage}, {wide, *down, *h});
  return success();
}

LogicalResult LowerToCpu::lower(HeadOp op) {
  auto norm = weight(op.getNorm(), Layout::Rows);
  auto w = weight(op.getWeight(), Layout::Panel);
  auto h = known(op, op.getX());
  if (failed(norm) || failed(w) || failed(h))
    return failure();
  call(HeadSpec{dim(op.getX(), 1), dim(op.getResult(), 1), storageOfWeight(*w),
                op.getEps().convertToFloat()},
       {input(plan::InputName::Rows), *h, *norm, *w, logits()});
  return success();
}

LogicalResult LowerToCpu::lower(Operation &op) {
  return llvm::TypeSwitch<Operation *, LogicalResult>(&op)
      .Case<EmbedOp, RopeTableOp, AttentionBlockOp, LinearResidualOp, MoeBlockOp, MlpBlockOp,
            HeadOp>([&](auto typed) { return lower(typed); })
      .Default([](Operation *other) {
        return other->emitOpError("has no kernel: fuse the model first (moe-opt --moe-fuse)");
      });
}

LogicalResult LowerToCpu::emitKernels() {
  for (CpuPlanKernel &kernel : kernels)
    for (const CpuTarget &target : targets) {
      kernel.modules.push_back(emitKernel(model.getContext(), kernel.spec, target));
      if (failed(mlir::verify(*kernel.modules.back())))
        return failure();
    }
  return success();
}

FailureOr<CpuPlan> LowerToCpu::run(int64_t maxStep) {
  if (failed(lowerPrograms(maxStep)) || failed(emitKernels()))
    return failure();
  std::vector<std::pair<std::string, int64_t>> names;
  for (const CpuPlanKernel &kernel : kernels)
    names.push_back({kernel.name, operandsOf(kernel.spec)});
  // A program's workers have room for what its most demanding kernel keeps.
  auto scratch = [&](int64_t tokens) {
    int64_t most = 0;
    for (const CpuPlanKernel &kernel : kernels)
      for (auto &module : kernel.modules) {
        Operation *function = ModuleOp(*module).lookupSymbol(kernel.name);
        auto attr = [&](StringRef name) {
          return function->getAttrOfType<IntegerAttr>(name).getInt();
        };
        most = std::max(most, attr("moe.scratch_fixed") + tokens * attr("moe.scratch_per_row"));
      }
    return most;
  };
  CpuPlan plan;
  plan.module = writeModule(names, scratch);
  plan.kernels = std::move(kernels);
  return plan;
}

FailureOr<CpuPlan> lowerToCpu(ModuleOp model, ArrayRef<CpuTarget> targets, int64_t maxStep) {
  return LowerToCpu(model, targets).run(maxStep);
}

} // namespace moe::codegen
