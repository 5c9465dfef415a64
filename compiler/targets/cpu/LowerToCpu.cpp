// Chooses the kernels of a CPU: the same ones for steps of any size.
#include "compiler/targets/cpu/LowerToCpu.h"
#include "compiler/targets/LowerToPlan.h"
#include "compiler/targets/cpu/Kernels.h"
#include "mlir/IR/Verifier.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;

namespace moe::codegen {

namespace {

constexpr int64_t kFewTokens = 4;

class LowerToCpu : public LowerToPlan {
public:
  LowerToCpu(ModuleOp model, ArrayRef<CpuTarget> targets)
      : LowerToPlan(model, "cpu", /*grids=*/false), targets(targets) {}
  FailureOr<CpuPlan> run(int64_t maxStep);

private:
  LogicalResult lower(Operation &op) override;
  Layout layoutOf(WeightRole role) const override;
  FailureOr<int64_t> layerBytes(CacheOp op, const CacheSpec &cache) override;
  LogicalResult lower(EmbedOp op);
  LogicalResult lower(RopeTableOp op);
  LogicalResult lower(AttentionBlockOp op);
  FailureOr<WeightFormat> outputOf(AttentionBlockOp op);
  LogicalResult lower(LinearResidualOp op);
  LogicalResult lower(MoeBlockOp op);
  LogicalResult lower(MlpBlockOp op);
  LogicalResult lower(HeadOp op);
  LogicalResult emitKernels();
  // Each worker of a program of few tokens norms all of them for itself, which saves a barrier.
  bool prepares() const { return tokens() > kFewTokens; }
  Operand normRows(const NormRowsSpec &spec, ArrayRef<Operand> inputs,
                   ArrayRef<Operand> outputs = {});

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

// The rows that a norm gives, from a kernel of its own.
LowerToPlan::Operand LowerToCpu::normRows(const NormRowsSpec &spec, ArrayRef<Operand> inputs,
                                          ArrayRef<Operand> outputs) {
  ActivationRow shared{spec.shared, spec.hidden}, routed{spec.routed, spec.hidden};
  bool one = !spec.experts || shared.sameAs(routed);
  Operand x = newBuffer(tokens() * (shared.bytes() + (one ? 0 : routed.bytes())));
  SmallVector<Operand> operands(inputs);
  operands.push_back(x);
  operands.append(outputs.begin(), outputs.end());
  call(spec, operands);
  return x;
}

Layout LowerToCpu::layoutOf(WeightRole role) const {
  switch (role) {
  case WeightRole::Rows:
    return Layout::Rows;
  case WeightRole::Matrix:
    return Layout::Panel;
  case WeightRole::GateUp:
    return Layout::PanelGateUp;
  case WeightRole::Heads:
    return Layout::PanelHeads;
  }
  llvm_unreachable("unknown role");
}

FailureOr<int64_t> LowerToCpu::layerBytes(CacheOp op, const CacheSpec &cache) {
  if (cache.storage == Storage::F16)
    return op.emitOpError("keeps f16, and a CPU's kernels take f32, bf16 or i8");
  if (cache.headDim % 2)
    return op.emitOpError() << "has head dimension " << cache.headDim
                            << ", and the kernels need an even one";
  return cache.layerBytes();
}

LogicalResult LowerToCpu::lower(EmbedOp op) {
  auto table = weight(op.getTable(), WeightRole::Rows);
  if (failed(table))
    return failure();
  int64_t hidden = dim(op.getResult(), 1);
  Operand h = newBuffer(tokens() * padded(hidden) * 4);
  write(op.getResult(), h);
  call(EmbedSpec{hidden, formatOf(*table)}, {input(plan::InputName::Tokens), *table, h});
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
  auto norm = weight(qkv->getNorm(), WeightRole::Rows);
  auto w = weight(qkv->getWeight(), WeightRole::Heads);
  auto h = known(*qkv, qkv->getX());
  if (failed(norm) || failed(w) || failed(h))
    return failure();
  const CachePlace &place = cacheOf(op);
  const CacheSpec &cache = place.spec;
  int64_t heads = dim(op.getResult(), 1) / cache.headDim;

  QkvSpec spec{.hidden = dim(qkv->getX(), 1),
               .heads = heads,
               .format = formatOf(*w),
               .cache = cache,
               .eps = qkv->getEps().convertToFloat(),
               .rope = bool(op.getTable()),
               .qkNorm = std::nullopt,
               .temperature = std::nullopt,
               .prepared = prepares()};
  if (auto eps = op.getQkNorm())
    spec.qkNorm = eps->convertToFloat();
  if (auto scale = op.getTemperatureScale())
    spec.temperature = {scale->convertToFloat(), op.getTemperatureFloor()->convertToFloat()};

  Operand positions = input(plan::InputName::Positions);
  Operand sequences = input(plan::InputName::Sequences);
  Operand blocks = tableOf(place), page = pages(place);
  Operand q = newBuffer(tokens() * heads * cache.queryRow().bytes());
  Operand x = *h;
  if (spec.prepared)
    x = normRows({.hidden = spec.hidden,
                  .experts = 0,
                  .k = 0,
                  .shared = spec.format,
                  .routed = spec.format,
                  .eps = spec.eps},
                 {*h, *norm});
  SmallVector<Operand> operands{positions, sequences, blocks, x, *norm, *w, q, page};
  if (op.getTable()) {
    auto table = known(op, op.getTable());
    if (failed(table))
      return failure();
    operands.push_back(*table);
  }
  auto output = outputOf(op);
  if (failed(output))
    return failure();
  AttentionSpec attention{heads, *output, cache};
  Operand out = newBuffer(tokens() * attention.outputBytes());
  write(op.getResult(), out);
  if (!prepares()) {
    spec.attention = *output;
    operands.append({out, counters(cache.heads * 4)});
    call(spec, operands);
    return success();
  }
  call(spec, operands);
  call(attention, {positions, sequences, blocks, q, page, out});
  return success();
}

// The format of the projection that reads the attention's result.
FailureOr<WeightFormat> LowerToCpu::outputOf(AttentionBlockOp op) {
  auto projection = op.getResult().hasOneUse()
                        ? dyn_cast<LinearResidualOp>(*op.getResult().user_begin())
                        : LinearResidualOp();
  if (!projection)
    return op.emitOpError("needs a moe.linear_residual as the one reader of its result");
  auto w = weight(projection.getWeight(), WeightRole::Matrix);
  if (failed(w))
    return failure();
  return formatOf(*w);
}

LogicalResult LowerToCpu::lower(LinearResidualOp op) {
  auto w = weight(op.getWeight(), WeightRole::Matrix);
  auto x = known(op, op.getX());
  auto h = updated(op, op.getResidual(), op.getResult());
  if (failed(w) || failed(x) || failed(h))
    return failure();
  auto attention = op.getX().getDefiningOp<AttentionBlockOp>();
  if (!attention)
    return op.emitOpError("is only supported on the result of moe.attention_block");
  const CacheSpec &cache = cacheOf(attention).spec;
  int64_t inputs = dim(op.getX(), 1);
  AttentionSpec from{inputs / cache.headDim, formatOf(*w), cache};
  call(LinearResidualSpec{inputs, dim(op.getResult(), 1), formatOf(*w), from.outputsFloats()},
       {*x, *w, *h});
  return success();
}

LogicalResult LowerToCpu::lower(MoeBlockOp op) {
  auto norm = weight(op.getNorm(), WeightRole::Rows);
  auto router = weight(op.getRouter(), WeightRole::Rows);
  auto sharedGateUp = weight(op.getSharedGateUp(), WeightRole::GateUp);
  auto gateUp = weight(op.getGateUp(), WeightRole::GateUp);
  auto sharedDown = weight(op.getSharedDown(), WeightRole::Matrix);
  auto down = weight(op.getDown(), WeightRole::Matrix);
  auto h = updated(op, op.getX(), op.getResult());
  if (failed(norm) || failed(router) || failed(sharedGateUp) || failed(gateUp) ||
      failed(sharedDown) || failed(down) || failed(h))
    return failure();
  if (formatOf(*router) != WeightFormat{Storage::F32})
    return op.emitOpError("needs its router packed in f32");
  GateUpSpec spec{.hidden = dim(op.getX(), 1),
                  .width = dim(op.getDown(), 2),
                  .experts = dim(op.getRouter(), 0),
                  .k = int64_t(op.getK()),
                  .shared = formatOf(*sharedGateUp),
                  .routed = formatOf(*gateUp),
                  .eps = op.getEps().convertToFloat(),
                  .sharedDown = formatOf(*sharedDown),
                  .routedDown = formatOf(*down),
                  .prepared = prepares()};
  ActivationRow shared{spec.sharedDown, spec.width}, routed{spec.routedDown, spec.width};
  Operand wide = newBuffer(tokens() * (shared.bytes() + spec.k * routed.bytes()));
  Operand chosen = newBuffer(tokens() * spec.k * 4);
  if (spec.prepared) {
    Operand scores = newBuffer(tokens() * spec.k * 4);
    Operand x = normRows({spec.hidden, spec.experts, spec.k, spec.shared, spec.routed, spec.eps},
                         {*h, *norm, *router}, {chosen, scores});
    call(spec, {x, chosen, scores, *sharedGateUp, *gateUp, wide});
  } else {
    call(spec, {*h, *norm, *router, *sharedGateUp, *gateUp, wide, chosen});
  }
  call(DownSpec{spec.hidden, spec.width, spec.experts, spec.k, spec.sharedDown, spec.routedDown},
       {wide, chosen, *sharedDown, *down, *h});
  return success();
}

LogicalResult LowerToCpu::lower(MlpBlockOp op) {
  auto norm = weight(op.getNorm(), WeightRole::Rows);
  auto gateUp = weight(op.getGateUp(), WeightRole::GateUp);
  auto down = weight(op.getDown(), WeightRole::Matrix);
  auto h = updated(op, op.getX(), op.getResult());
  if (failed(norm) || failed(gateUp) || failed(down) || failed(h))
    return failure();
  WeightFormat format = formatOf(*gateUp), downFormat = formatOf(*down);
  GateUpSpec spec{.hidden = dim(op.getX(), 1),
                  .width = dim(op.getDown(), 1),
                  .experts = 0,
                  .k = 0,
                  .shared = format,
                  .routed = format,
                  .eps = op.getEps().convertToFloat(),
                  .sharedDown = downFormat,
                  .routedDown = downFormat,
                  .prepared = prepares()};
  Operand wide = newBuffer(tokens() * ActivationRow{downFormat, spec.width}.bytes());
  if (spec.prepared) {
    Operand x = normRows({spec.hidden, 0, 0, format, format, spec.eps}, {*h, *norm});
    call(spec, {x, *gateUp, wide});
  } else {
    call(spec, {*h, *norm, *gateUp, wide});
  }
  call(DownSpec{spec.hidden, spec.width, 0, 0, downFormat, downFormat}, {wide, *down, *h});
  return success();
}

LogicalResult LowerToCpu::lower(HeadOp op) {
  auto norm = weight(op.getNorm(), WeightRole::Rows);
  auto w = weight(op.getWeight(), WeightRole::Matrix);
  auto h = known(op, op.getX());
  if (failed(norm) || failed(w) || failed(h))
    return failure();
  call(HeadSpec{dim(op.getX(), 1), dim(op.getResult(), 1), formatOf(*w),
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
