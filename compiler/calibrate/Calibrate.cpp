// Runs the model on the windows; each product that reads int4 or int8 codes has them chosen first.
#include "compiler/calibrate/Calibrate.h"
#include "llvm/ADT/StringSet.h"

using namespace moe;
using namespace mlir;

namespace {

constexpr int64_t kRowsAtOnce = 64; // of a weight, on a thread

// The format that calibration chooses codes for, if it does so for this weight.
std::optional<WeightFormat> formatOf(WeightOp weight) {
  auto packing = weight.getPacking();
  if (!packing)
    return {};
  WeightFormat format = packing->getFormat().getFormat();
  if (!infoOf(format.element).integers || format.zeros ||
      weight.getEncoding() == packing->getFormat())
    return {};
  return format;
}

int64_t matricesOf(WeightOp weight) {
  return weight.getType().getRank() == 3 ? weight.getType().getDimSize(0) : 1;
}

// The weights that activations are multiplied with, whatever else they are.
llvm::StringSet<> multiplied(func::FuncOp step) {
  llvm::StringSet<> names;
  step.walk([&](WeightUser user) {
    for (const WeightUse &use : user.getWeightUses())
      if (auto load = use.operand->get().getDefiningOp<LoadWeightOp>(); load && use.isMultiplied())
        names.insert(load.getWeight());
  });
  return names;
}

llvm::Error chooseCodes(WeightOp weight, int64_t matrix, const WeightFormat &format,
                        const Matrix &x, const TensorSource &tensors, CodeStore &store) {
  auto feedback = ErrorFeedback::create(x);
  if (!feedback)
    return feedback.takeError();
  const int64_t n = weight.getType().getShape().drop_back().back();
  return forRows(
      weight, matrix, kRowsAtOnce, tensors, [&](int64_t first, const Matrix &rows) -> llvm::Error {
        if (!rows.allFinite())
          return llvm::createStringError("weight '" + weight.getSymName() +
                                         "' has values that are not finite, and calibration needs "
                                         "finite ones: is the checkpoint damaged?");
        std::vector<uint8_t> codes(static_cast<size_t>(rows.size()));
        std::vector<float> scales(size_t(rows.size() / format.group));
        feedback->round(format, rows, codes, scales);
        if (llvm::any_of(scales, [](float scale) { return !std::isfinite(scale); }))
          return llvm::createStringError("weight '" + weight.getSymName() +
                                         "' has values too large for scales of " +
                                         nameOf(format.scale) + ": store it as bf16");
        if (Status status = store.add(weight.getSymName(), format, n, rows.cols(), matrix, first,
                                      codes, scales);
            !status)
          return llvm::createStringError(status.error().message);
        return llvm::Error::success();
      });
}

} // namespace

llvm::Error moe::calibrate(ModuleOp model, const TensorSource &tensors,
                           llvm::ArrayRef<std::vector<int32_t>> windows, CodeStore &store,
                           const CalibrationEvents &events) {
  auto step = model.lookupSymbol<func::FuncOp>("step");
  if (!step)
    return llvm::createStringError("the module has no function @step");
  std::vector<int32_t> tokens, positions, sequences, rows;
  for (const auto &[w, window] : llvm::enumerate(windows))
    for (const auto &[i, token] : llvm::enumerate(window)) {
      tokens.push_back(token);
      positions.push_back(int32_t(i));
      sequences.push_back(int32_t(w));
    }
  if (tokens.empty())
    return llvm::createStringError("the calibration text has no tokens");

  uint64_t done = 0, total = 0, known = 0;
  const llvm::StringSet<> products = multiplied(step);
  for (auto weight : model.getOps<WeightOp>())
    if (std::optional<WeightFormat> format = formatOf(weight);
        format && products.contains(weight.getSymName()))
      for (int64_t m = 0; m < matricesOf(weight); ++m) {
        ++total;
        known += store.knows(weight.getSymName(), *format, m);
      }
  if (!total)
    return llvm::createStringError(
        "no weight is to be int4 or int8, whose codes a text chooses: use --weights int4, or leave "
        "out --calibrate");
  if (known == total) {
    if (events.progress)
      events.progress(total, total);
    return llvm::Error::success();
  }
  for (size_t t = 0; t < tokens.size(); ++t)
    rows.push_back(int32_t(t));

  const auto visit = [&](WeightOp weight, int64_t matrix, const Matrix &x) -> llvm::Error {
    if (events.cancel && *events.cancel)
      return llvm::createStringError("interrupted");
    const std::optional<WeightFormat> format = formatOf(weight);
    if (!format)
      return llvm::Error::success();
    if (store.knows(weight.getSymName(), *format, matrix)) {
      // The codes are there.
    } else if (!x.rows()) {
      const auto shape = weight.getType().getShape();
      store.addNone(weight.getSymName(), *format, shape.drop_back().back(), shape.back(), matrix);
    } else if (llvm::Error error = chooseCodes(weight, matrix, *format, x, tensors, store)) {
      return error;
    }
    if (events.progress)
      events.progress(++done, total);
    return llvm::Error::success();
  };
  auto logits =
      runForward(step, tensors, {tokens, positions, sequences, rows, /*logits=*/false}, visit);
  return logits.takeError();
}
