// Chooses the kernels of a GPU: README.md has the calls of small and of tiled steps.
#include "compiler/targets/cuda/LowerToCuda.h"
#include "compiler/targets/LowerToPlan.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;

namespace moe::codegen {

namespace {

class LowerToCuda : public LowerToPlan {
public:
  explicit LowerToCuda(ModuleOp model) : LowerToPlan(model, "cuda", /*grids=*/true) {}
  FailureOr<CudaPlan> run(int64_t maxStep);

private:
  LogicalResult lower(Operation &op) override;
  Layout layoutOf(WeightRole role) const override;
  FailureOr<int64_t> layerBytes(CacheOp op, const CacheSpec &cache) override;
  LogicalResult lower(EmbedOp op);
  LogicalResult lower(RopeTableOp op);
  LogicalResult lower(AttentionBlockOp op);
  LogicalResult lower(LinearResidualOp op);
  LogicalResult lower(MoeBlockOp op);
  LogicalResult lower(MlpBlockOp op);
  LogicalResult lower(HeadOp op);

  bool small() const { return tokens() <= kSmallTokens; }
  // Tokens of a tile of the program's products.
  int64_t tile() const { return small() ? kSmallTokens : tokens() <= 64 ? 64 : 128; }

  // Rows of bf16 that a product reads.
  Operand rowsOf(int64_t count, int64_t channels) {
    return newBuffer(count * padded(channels) * bytesOf(Storage::BF16));
  }
  Operand partials(const CudaSpec &spec) { return newBuffer(partialBytes(spec)); }
  Operand counters(const CudaSpec &spec) { return LowerToPlan::counters(counterBytes(spec)); }

  LogicalResult call(Operation *op, const CudaSpec &spec, ArrayRef<Operand> operands);

  llvm::StringSet<> seen;
  std::vector<CudaSpec> kernels;
};

} // namespace

// Kernels whose tiles do not go by the step are the same in all tiled programs.
static constexpr int64_t kAnyTile = 64;

LogicalResult LowerToCuda::call(Operation *op, const CudaSpec &spec, ArrayRef<Operand> operands) {
  std::string name = nameOf(spec);
  if (seen.insert(name).second) {
    if (std::string why = unsupported(spec); !why.empty())
      return op->emitOpError("has no kernel for cuda: ") << why << "; leave out the cuda targets";
    kernels.push_back(spec);
  }
  assert(operandsOf(spec) == int64_t(operands.size()));
  LowerToPlan::call(name, operands, blocksOf(spec, tokens(), rows()));
  return success();
}

// Heads are finished by another kernel than the product's.
Layout LowerToCuda::layoutOf(WeightRole role) const {
  switch (role) {
  case WeightRole::Rows:
    return Layout::Rows;
  case WeightRole::Matrix:
  case WeightRole::Heads:
    return Layout::Fragments;
  case WeightRole::GateUp:
    return Layout::FragmentsGateUp;
  }
  llvm_unreachable("unknown role");
}

FailureOr<int64_t> LowerToCuda::layerBytes(CacheOp op, const CacheSpec &cache) {
  if (cache.storage != Storage::F16 && cache.storage != Storage::BF16)
    return op.emitOpError() << "keeps " << nameOf(cache.storage)
                            << ", and a GPU's kernels take f16 or bf16";
  return cudaLayerBytes(cache);
}

LogicalResult LowerToCuda::lower(EmbedOp op) {
  auto table = weight(op.getTable(), WeightRole::Rows);
  if (failed(table))
    return failure();
  int64_t hidden = dim(op.getResult(), 1);
  Operand h = newBuffer(tokens() * padded(hidden) * 4);
  write(op.getResult(), h);
  return call(op, {EmbedSpec{hidden, formatOf(*table)}},
              {input(plan::InputName::Tokens), *table, h});
}

LogicalResult LowerToCuda::lower(RopeTableOp op) {
  RopeTableSpec spec{SmallVector<float>(op.getFrequencies())};
  Operand table = newBuffer(tokens() * padded(2 * spec.frequencies.size()) * 4);
  write(op.getResult(), table);
  return call(op, {spec}, {input(plan::InputName::Positions), table});
}

LogicalResult LowerToCuda::lower(AttentionBlockOp op) {
  auto qkv = qkvOf(op);
  if (failed(qkv))
    return failure();
  auto norm = weight(qkv->getNorm(), WeightRole::Rows);
  auto w = weight(qkv->getWeight(), WeightRole::Heads);
  auto h = known(*qkv, qkv->getX());
  if (failed(norm) || failed(w) || failed(h))
    return failure();
  const CachePlace &place = cacheOf(op);
  WeightFormat format = formatOf(*w);
  int64_t hidden = dim(qkv->getX(), 1), channels = dim(op.getResult(), 1);
  float eps = qkv->getEps().convertToFloat();

  FinishSpec finish{.heads = channels / place.spec.headDim,
                    .cache = place.spec,
                    .rope = bool(op.getTable()),
                    .qkNorm = std::nullopt,
                    .temperature = std::nullopt};
  if (auto eps = op.getQkNorm())
    finish.qkNorm = eps->convertToFloat();
  if (auto scale = op.getTemperatureScale())
    finish.temperature = {scale->convertToFloat(), op.getTemperatureFloor()->convertToFloat()};
  std::optional<Operand> rope;
  if (op.getTable()) {
    auto table = known(op, op.getTable());
    if (failed(table))
      return failure();
    rope = *table;
  }
  Operand positions = input(plan::InputName::Positions);
  Operand sequences = input(plan::InputName::Sequences);
  Operand table = tableOf(place), page = pages(place);

  if (small()) {
    int64_t shares = splitsOf(finish.rows(), hidden);
    Operand sums = newBuffer(shares * tokens() * finish.rows() * 4);
    if (failed(call(*qkv, {CudaQkvSpec{hidden, finish.rows(), format, eps}, kSmallTokens, shares},
                    {*h, *norm, *w, sums})))
      return failure();
    // As many blocks for one token as there are multiprocessors, within reason.
    int64_t splits = std::clamp<int64_t>(kMultiprocessors / place.spec.heads, 1, 16);
    finish.sumSplits = shares;
    CudaSpec spec{CudaAttentionSpec{finish, Storage::BF16}, kSmallTokens, splits};
    Operand out = rowsOf(tokens(), channels);
    write(op.getResult(), out);
    SmallVector<Operand> operands{positions, sequences, table,          sums,
                                  page,      out,       partials(spec), counters(spec)};
    if (rope)
      operands.push_back(*rope);
    return call(op, spec, operands);
  }

  Operand x = rowsOf(tokens(), hidden);
  Operand sums = newBuffer(tokens() * finish.rows() * 4);
  Operand q = newBuffer(tokens() * channels * bytesOf(place.spec.storage));
  Operand out = rowsOf(tokens(), channels);
  write(op.getResult(), out);
  SmallVector<Operand> operands{positions, sequences, table, sums, q, page};
  if (rope)
    operands.push_back(*rope);
  return success(
      succeeded(
          call(*qkv, {NormSpec{hidden, Storage::BF16, eps, false}, kAnyTile}, {*h, *norm, x})) &&
      succeeded(call(*qkv, {LinearSpec{hidden, finish.rows(), format}, tile()}, {x, *w, sums})) &&
      succeeded(call(op, {finish, kAnyTile}, operands)) &&
      succeeded(call(op, {CudaAttentionSpec{finish, Storage::BF16}, kAnyTile},
                     {positions, sequences, table, q, page, out})));
}

LogicalResult LowerToCuda::lower(LinearResidualOp op) {
  auto w = weight(op.getWeight(), WeightRole::Matrix);
  auto x = known(op, op.getX());
  auto h = updated(op, op.getResidual(), op.getResult());
  if (failed(w) || failed(x) || failed(h))
    return failure();
  if (!op.getX().getDefiningOp<AttentionBlockOp>())
    return op.emitOpError("is only supported on the result of moe.attention_block");
  int64_t inputs = dim(op.getX(), 1), outputs = dim(op.getResult(), 1);
  CudaSpec spec{LinearResidualSpec{inputs, outputs, formatOf(*w)}, tile()};
  if (!small())
    return call(op, spec, {*x, *w, *h});
  spec.splits = splitsOf(outputs, inputs);
  return call(op, spec, {*x, *w, *h, partials(spec), counters(spec)});
}

LogicalResult LowerToCuda::lower(MoeBlockOp op) {
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
  if (storageOfWeight(*router) != Storage::F32)
    return op.emitOpError("needs its router packed in f32");
  float eps = op.getEps().convertToFloat();
  int64_t hidden = dim(op.getX(), 1), width = dim(op.getDown(), 2);
  int64_t experts = dim(op.getRouter(), 0), k = op.getK();
  CudaSpec first{
      GateUpSpec{hidden, width, experts, k, formatOf(*sharedGateUp), formatOf(*gateUp), eps},
      tile()};
  CudaSpec second{DownSpec{hidden, width, experts, k, formatOf(*sharedDown), formatOf(*down)},
                  tile()};
  Operand wide = rowsOf(2 * tokens(), width);
  Operand chosen = newBuffer(tokens() * 4);

  if (small()) {
    Operand routed = newBuffer(experts * kSmallTokens * 4);
    second.splits = splitsOf(2 * hidden, width); // of two matrices
    return success(succeeded(call(op, first,
                                  {*h, *norm, *router, *sharedGateUp, *gateUp, wide, chosen, routed,
                                   counters(first)})) &&
                   succeeded(call(op, second,
                                  {wide, chosen, *sharedDown, *down, *h, partials(second),
                                   counters(second)})));
  }
  CudaSpec route{RouterSpec{hidden, experts, Storage::BF16, eps}, kAnyTile};
  Operand x = rowsOf(tokens(), hidden);
  Operand scores = newBuffer(tokens() * 4), order = newBuffer(tokens() * 4);
  Operand offsets = newBuffer((experts + 1) * 4);
  return success(
      succeeded(call(op, route,
                     {*h, *norm, *router, x, chosen, scores, order, offsets, counters(route)})) &&
      succeeded(call(op, first, {x, scores, order, offsets, *sharedGateUp, *gateUp, wide})) &&
      succeeded(call(op, second, {wide, order, offsets, *sharedDown, *down, *h})));
}

LogicalResult LowerToCuda::lower(MlpBlockOp op) {
  auto norm = weight(op.getNorm(), WeightRole::Rows);
  auto gateUp = weight(op.getGateUp(), WeightRole::GateUp);
  auto down = weight(op.getDown(), WeightRole::Matrix);
  auto h = updated(op, op.getX(), op.getResult());
  if (failed(norm) || failed(gateUp) || failed(down) || failed(h))
    return failure();
  float eps = op.getEps().convertToFloat();
  int64_t hidden = dim(op.getX(), 1), width = dim(op.getDown(), 1);
  CudaSpec first{GateUpSpec{hidden, width, 0, 0, formatOf(*gateUp), {}, eps}, tile()};
  CudaSpec second{DownSpec{hidden, width, 0, 0, formatOf(*down), {}}, tile()};
  Operand wide = rowsOf(tokens(), width);

  if (small()) {
    second.splits = splitsOf(hidden, width);
    return success(
        succeeded(call(op, first, {*h, *norm, *gateUp, wide})) &&
        succeeded(call(op, second, {wide, *down, *h, partials(second), counters(second)})));
  }
  Operand x = rowsOf(tokens(), hidden);
  return success(succeeded(call(op, {NormSpec{hidden, Storage::BF16, eps, false}, kAnyTile},
                                {*h, *norm, x})) &&
                 succeeded(call(op, first, {x, *gateUp, wide})) &&
                 succeeded(call(op, second, {wide, *down, *h})));
}

LogicalResult LowerToCuda::lower(HeadOp op) {
  auto norm = weight(op.getNorm(), WeightRole::Rows);
  auto w = weight(op.getWeight(), WeightRole::Matrix);
  auto h = known(op, op.getX());
  if (failed(norm) || failed(w) || failed(h))
    return failure();
  WeightFormat format = formatOf(*w);
  float eps = op.getEps().convertToFloat();
  int64_t hidden = dim(op.getX(), 1), vocabulary = dim(op.getResult(), 1);
  Operand wanted = input(plan::InputName::Rows), sampling = input(plan::InputName::Sampling);
  CudaSpec head{HeadSpec{hidden, vocabulary, format, eps}, tile()};
  Operand best = LowerToPlan::counters(counterBytes(head, rows()));
  if (small()) {
    if (failed(call(op, head, {wanted, sampling, *h, *norm, *w, logits(), ids(), best})))
      return failure();
  } else {
    Operand x = rowsOf(rows(), hidden);
    if (failed(call(op, {NormSpec{hidden, Storage::BF16, eps, true}, kAnyTile},
                    {wanted, *h, *norm, x})) ||
        failed(call(op, head, {x, sampling, *w, logits(), ids(), best})))
      return failure();
  }
  CudaSpec sample{SampleSpec{vocabulary}};
  return call(op, sample,
              {sampling, logits(), ids(), newBuffer(partialBytes(sample, rows())),
               LowerToPlan::counters(counterBytes(sample, rows()))});
}

LogicalResult LowerToCuda::lower(Operation &op) {
  return llvm::TypeSwitch<Operation *, LogicalResult>(&op)
      .Case<EmbedOp, RopeTableOp, AttentionBlockOp, LinearResidualOp, MoeBlockOp, MlpBlockOp,
            HeadOp>([&](auto typed) { return lower(typed); })
      .Default([](Operation *other) {
        return other->emitOpError("has no kernel: fuse the model first (moe-opt --moe-fuse)");
      });
}

FailureOr<CudaPlan> LowerToCuda::run(int64_t maxStep) {
  if (failed(lowerPrograms(maxStep)))
    return failure();
  std::vector<std::pair<std::string, int64_t>> names;
  for (const CudaSpec &kernel : kernels)
    names.push_back({nameOf(kernel), operandsOf(kernel)});
  CudaPlan plan;
  plan.module = writeModule(names, [](int64_t) { return 0; });
  plan.kernels = std::move(kernels);
  return plan;
}

FailureOr<CudaPlan> lowerToCuda(ModuleOp model, int64_t maxStep) {
  return LowerToCuda(model).run(maxStep);
}

} // namespace moe::codegen
