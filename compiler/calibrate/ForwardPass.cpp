// The fused ops on matrices: products by Eigen, a few rows of a weight at a time on each thread;
// what happens to heads and choices of experts is the reference's.
#include "compiler/calibrate/ForwardPass.h"
#include "dialects/moe/MoeReference.h"
#include "mlir/IR/Threading.h"
#include "llvm/ADT/TypeSwitch.h"

#include <cmath>
#include <mutex>

using namespace moe;
using namespace mlir;

namespace {

constexpr int64_t kRowsAtOnce = 256; // of a weight, on a thread

std::span<const float> viewOf(const Matrix &m) { return {m.data(), size_t(m.size())}; }
Matrix matrixOf(const reference::Values &values, int64_t rows) {
  return Eigen::Map<const Matrix>(values.data(), rows, int64_t(values.size()) / rows);
}
llvm::Expected<WeightReader> openWeight(WeightOp weight, const TensorSource &tensors) {
  Result<WeightReader> reader = WeightReader::open(tensors, slicesOf(weight));
  if (!reader)
    return llvm::createStringError("weight '" + weight.getSymName() + "' " +
                                   reader.error().message);
  return std::move(*reader);
}

float silu(float x) { return x / (1 + std::exp(-x)); }

class ForwardPass {
public:
  ForwardPass(func::FuncOp step, const TensorSource &tensors, const ForwardInputs &inputs,
              const ProductVisitor &visit)
      : step(step), symbols(step->getParentOfType<ModuleOp>()), tensors(tensors), inputs(inputs),
        visit(visit) {}

  llvm::Expected<Matrix> run();

private:
  llvm::Error evaluate(EmbedOp op);
  llvm::Error evaluate(RopeTableOp op);
  llvm::Error evaluate(QkvOp op);
  llvm::Error evaluate(AttentionBlockOp op);
  llvm::Error evaluate(LinearResidualOp op);
  llvm::Error evaluate(MoeBlockOp op);
  llvm::Error evaluate(MlpBlockOp op);
  llvm::Error evaluate(HeadOp op);
  llvm::Error evaluate(FinalNormOp op);

  const Matrix &of(Value value) { return values.find(value)->second; }
  WeightOp weightOf(Value value) {
    return symbols.lookup<WeightOp>(value.getDefiningOp<LoadWeightOp>().getWeight());
  }
  llvm::Expected<std::vector<float>> vectorOf(Value weight) {
    WeightOp op = weightOf(weight);
    auto reader = openWeight(op, tensors);
    if (!reader)
      return reader.takeError();
    std::vector<float> out(size_t(op.getType().getNumElements()));
    if (Status status = reader->read(0, out); !status)
      return llvm::createStringError(status.error().message);
    return out;
  }
  llvm::Expected<Matrix> normed(const Matrix &x, Value norm, const llvm::APFloat &eps);
  llvm::Expected<Matrix> normedRows(const Matrix &h, Value norm, const llvm::APFloat &eps);
  // x * transpose(weight[matrix])
  llvm::Expected<Matrix> product(const Matrix &x, WeightOp weight, int64_t matrix,
                                 bool shown = true);
  llvm::Expected<Matrix> gatedMlp(const Matrix &x, WeightOp gateUp, WeightOp down, int64_t matrix);

  func::FuncOp step;
  SymbolTable symbols;
  const TensorSource &tensors;
  const ForwardInputs &inputs;
  const ProductVisitor &visit;
  llvm::DenseMap<Value, Matrix> values;
};

llvm::Expected<Matrix> ForwardPass::normed(const Matrix &x, Value norm, const llvm::APFloat &eps) {
  auto weight = vectorOf(norm);
  if (!weight)
    return weight.takeError();
  return matrixOf(reference::rmsNorm(viewOf(x), *weight, eps.convertToFloat()), x.rows());
}

llvm::Expected<Matrix> ForwardPass::product(const Matrix &x, WeightOp weight, int64_t matrix,
                                            bool shown) {
  if (shown)
    if (llvm::Error error = visit(weight, matrix, x))
      return std::move(error);
  Matrix out(x.rows(), weight.getType().getShape().drop_back().back());
  if (!x.rows())
    return out;
  if (llvm::Error error =
          forRows(weight, matrix, kRowsAtOnce, tensors, [&](int64_t first, const Matrix &rows) {
            out.middleCols(first, rows.rows()).noalias() = x * rows.transpose();
            return llvm::Error::success();
          }))
    return std::move(error);
  return out;
}

llvm::Expected<Matrix> ForwardPass::gatedMlp(const Matrix &x, WeightOp gateUp, WeightOp down,
                                             int64_t matrix) {
  auto both = product(x, gateUp, matrix);
  if (!both)
    return both.takeError();
  const int64_t width = both->cols() / 2;
  Matrix hidden = both->leftCols(width).unaryExpr(&silu).cwiseProduct(both->rightCols(width));
  return product(hidden, down, matrix);
}

llvm::Error ForwardPass::evaluate(EmbedOp op) {
  WeightOp table = weightOf(op.getTable());
  auto reader = openWeight(table, tensors);
  if (!reader)
    return reader.takeError();
  Matrix &h = values[op.getResult()];
  h.resize(int64_t(inputs.tokens.size()), table.getType().getDimSize(1));
  Matrix row(1, h.cols());
  for (int64_t t = 0; t < h.rows(); ++t) {
    if (inputs.tokens[t] < 0 || inputs.tokens[t] >= table.getType().getDimSize(0))
      return llvm::createStringError("token " + llvm::Twine(inputs.tokens[t]) +
                                     " is not in the vocabulary");
    if (Status status =
            reader->read(inputs.tokens[t] * row.cols(), {row.data(), size_t(row.size())});
        !status)
      return llvm::createStringError(status.error().message);
    h.row(t) = row;
  }
  return llvm::Error::success();
}

llvm::Error ForwardPass::evaluate(RopeTableOp op) {
  values[op.getResult()] = matrixOf(reference::ropeTable(inputs.positions, op.getFrequencies()),
                                    int64_t(inputs.positions.size()));
  return llvm::Error::success();
}

llvm::Error ForwardPass::evaluate(QkvOp op) {
  auto x = normed(of(op.getX()), op.getNorm(), op.getEps());
  if (!x)
    return x.takeError();
  return product(*x, weightOf(op.getWeight()), 0).moveInto(values[op.getResult()]);
}

llvm::Error ForwardPass::evaluate(AttentionBlockOp op) {
  auto cache = symbols.lookup<CacheOp>(op.getCache());
  const int64_t d = cache.getHeadDim(), groups = cache.getHeads();
  const Matrix &qkv = of(op.getQkv());
  const int64_t heads = qkv.cols() / d - 2 * groups, tokens = qkv.rows();
  Matrix q = qkv.leftCols(heads * d), k = qkv.middleCols(heads * d, groups * d),
         v = qkv.rightCols(groups * d);
  const auto change = [&](Matrix &x, const reference::Values &to) { x = matrixOf(to, tokens); };
  if (Value table = op.getTable()) {
    change(q, reference::rope(viewOf(q), viewOf(of(table)), d));
    change(k, reference::rope(viewOf(k), viewOf(of(table)), d));
  }
  if (auto eps = op.getQkNorm()) {
    change(q, reference::headNorm(viewOf(q), d, eps->convertToFloat()));
    change(k, reference::headNorm(viewOf(k), d, eps->convertToFloat()));
  }
  if (auto scale = op.getTemperatureScale())
    change(q, reference::temperature(viewOf(q), inputs.positions, scale->convertToFloat(),
                                     op.getTemperatureFloor()->convertToFloat()));

  std::vector<int64_t> starts; // of sequences
  for (int64_t t = 0; t < tokens; ++t)
    if (inputs.positions[t] == 0)
      starts.push_back(t);
  starts.push_back(tokens);
  const int64_t chunk = cache.getChunk() ? int64_t(*cache.getChunk()) : tokens;
  Matrix &out = values[op.getResult()];
  out.resize(tokens, heads * d);
  mlir::parallelFor(op.getContext(), 0, (starts.size() - 1) * size_t(heads), [&](size_t job) {
    const int64_t s = int64_t(job) / heads, head = int64_t(job) % heads;
    const int64_t group = head / (heads / groups);
    for (int64_t first = starts[s]; first < starts[s + 1]; first += chunk) {
      const int64_t n = std::min(chunk, starts[s + 1] - first);
      Matrix scores = q.block(first, head * d, n, d) * k.block(first, group * d, n, d).transpose() /
                      std::sqrt(float(d));
      for (int64_t t = 0; t < n; ++t) {
        auto seen = scores.row(t).head(t + 1).array();
        seen = (seen - seen.maxCoeff()).exp();
        seen /= seen.sum();
        scores.row(t).tail(n - t - 1).setZero();
      }
      out.block(first, head * d, n, d).noalias() = scores * v.block(first, group * d, n, d);
    }
  });
  return llvm::Error::success();
}

llvm::Error ForwardPass::evaluate(LinearResidualOp op) {
  auto y = product(of(op.getX()), weightOf(op.getWeight()), 0);
  if (!y)
    return y.takeError();
  values[op.getResult()] = of(op.getResidual()) + *y;
  return llvm::Error::success();
}

llvm::Error ForwardPass::evaluate(MoeBlockOp op) {
  auto x = normed(of(op.getX()), op.getNorm(), op.getEps());
  if (!x)
    return x.takeError();
  const int64_t k = op.getK(), experts = weightOf(op.getRouter()).getType().getDimSize(0);
  auto logits = product(*x, weightOf(op.getRouter()), 0, /*shown=*/false);
  if (!logits)
    return logits.takeError();
  const reference::Routing routing = reference::route(viewOf(*logits), experts, k);
  auto sum = gatedMlp(*x, weightOf(op.getSharedGateUp()), weightOf(op.getSharedDown()), 0);
  if (!sum)
    return sum.takeError();
  for (int64_t e = 0; e < experts; ++e) {
    std::vector<Eigen::Index> chosen; // token * k + rank
    for (size_t c = 0; c < routing.experts.size(); ++c)
      if (routing.experts[c] == e)
        chosen.push_back(Eigen::Index(c));
    Matrix own(Eigen::Index(chosen.size()), x->cols());
    for (size_t i = 0; i < chosen.size(); ++i)
      own.row(i) = x->row(chosen[i] / k) * routing.scores[chosen[i]];
    auto y = gatedMlp(own, weightOf(op.getGateUp()), weightOf(op.getDown()), e);
    if (!y)
      return y.takeError();
    for (size_t i = 0; i < chosen.size(); ++i)
      sum->row(chosen[i] / k) += y->row(i);
  }
  values[op.getResult()] = of(op.getX()) + *sum;
  return llvm::Error::success();
}

llvm::Error ForwardPass::evaluate(MlpBlockOp op) {
  auto x = normed(of(op.getX()), op.getNorm(), op.getEps());
  if (!x)
    return x.takeError();
  auto y = gatedMlp(*x, weightOf(op.getGateUp()), weightOf(op.getDown()), 0);
  if (!y)
    return y.takeError();
  values[op.getResult()] = of(op.getX()) + *y;
  return llvm::Error::success();
}

llvm::Expected<Matrix> ForwardPass::normedRows(const Matrix &h, Value norm,
                                               const llvm::APFloat &eps) {
  Matrix rows(int64_t(inputs.rows.size()), h.cols());
  for (int64_t r = 0; r < rows.rows(); ++r)
    rows.row(r) = h.row(inputs.rows[r]);
  return normed(rows, norm, eps);
}

llvm::Error ForwardPass::evaluate(FinalNormOp op) {
  return normedRows(of(op.getX()), op.getNorm(), op.getEps()).moveInto(values[op.getResult()]);
}

llvm::Error ForwardPass::evaluate(HeadOp op) {
  auto x = normedRows(of(op.getX()), op.getNorm(), op.getEps());
  if (!x)
    return x.takeError();
  Matrix &logits = values[op.getResult()];
  if (!inputs.logits)
    return visit(weightOf(op.getWeight()), 0, *x);
  return product(*x, weightOf(op.getWeight()), 0).moveInto(logits);
}

llvm::Expected<Matrix> ForwardPass::run() {
  for (Operation &op : step.front()) {
    if (auto end = dyn_cast<func::ReturnOp>(op))
      return std::move(values[end.getOperand(0)]);
    if (isa<LoadWeightOp>(op))
      continue;
    // The map may grow while an op reads from it.
    values.reserve(values.size() + 2);
    llvm::Error error =
        llvm::TypeSwitch<Operation *, llvm::Error>(&op)
            .Case<EmbedOp, RopeTableOp, QkvOp, AttentionBlockOp, LinearResidualOp, MoeBlockOp,
                  MlpBlockOp, HeadOp, FinalNormOp>([&](auto typed) { return evaluate(typed); })
            .Default([](Operation *other) {
              return llvm::createStringError(other->getName().getStringRef() +
                                             " is no op of a fused model: fuse it first");
            });
    if (error)
      return std::move(error);
    for (Value operand : op.getOperands()) // what nothing needs any more
      if (llvm::all_of(operand.getUsers(),
                       [&](Operation *user) { return user == &op || user->isBeforeInBlock(&op); }))
        values.erase(operand);
  }
  return llvm::createStringError("the model returns nothing");
}

} // namespace

llvm::Error moe::forRows(WeightOp weight, int64_t matrix, int64_t atOnce,
                         const TensorSource &tensors,
                         llvm::function_ref<llvm::Error(int64_t, const Matrix &)> use) {
  auto reader = openWeight(weight, tensors);
  if (!reader)
    return reader.takeError();
  const ArrayRef<int64_t> shape = weight.getType().getShape();
  const int64_t n = shape.drop_back().back(), k = shape.back();
  std::mutex mutex;
  std::optional<llvm::Error> firstError;
  const auto rowsFrom = [&](int64_t first) -> llvm::Error {
    Matrix rows(std::min(atOnce, n - first), k);
    const std::span<float> out(rows.data(), size_t(rows.size()));
    if (Status status = reader->read((matrix * n + first) * k, out); !status)
      return llvm::createStringError(status.error().message);
    return use(first, rows);
  };
  mlir::parallelFor(weight->getContext(), 0, size_t(llvm::divideCeil(n, atOnce)), [&](size_t i) {
    if (llvm::Error error = rowsFrom(int64_t(i) * atOnce)) {
      std::scoped_lock lock(mutex);
      if (firstError)
        consumeError(std::move(error)); // one is enough
      else
        firstError = std::move(error);
    }
  });
  return firstError ? std::move(*firstError) : llvm::Error::success();
}

llvm::Expected<Matrix> moe::runForward(func::FuncOp step, const TensorSource &tensors,
                                       const ForwardInputs &inputs, const ProductVisitor &visit) {
  return ForwardPass(step, tensors, inputs, visit).run();
}
