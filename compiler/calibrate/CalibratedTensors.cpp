// Rows of codes as tensors.
#include "compiler/calibrate/CalibratedTensors.h"
#include "compiler/plan/Quantize.h"
#include "dialects/moe/WeightSources.h"
#include "llvm/ADT/StringExtras.h"

using namespace moe;
using namespace mlir;

CalibratedTensors::CalibratedTensors(std::unique_ptr<TensorSource> source,
                                     std::unique_ptr<CodeStore> store)
    : checkpoint(std::move(source)), codes(std::move(store)) {
  for (const TensorInfo &tensor : checkpoint->tensors())
    add(tensor);
}

void CalibratedTensors::adopt(ModuleOp model) {
  Builder builder(model.getContext());
  for (auto weight : model.getOps<WeightOp>()) {
    if (!weight.getPacking())
      continue;
    const WeightFormat format = weight.getPacking()->getFormat().getFormat();
    const auto shape = weight.getType().getShape();
    if (!format.quantized() || shape.size() < 2)
      continue;
    const int64_t rows = shape.drop_back().back(), cols = shape.back();
    SmallVector<Attribute> sources;
    bool changed = false;
    for (int64_t m = 0; m < weight.getType().getNumElements() / (rows * cols); ++m) {
      const int64_t begin = m * rows * cols, end = begin + rows * cols;
      if (!codes->has(weight.getSymName(), format, m)) {
        llvm::append_range(sources, sourcesOf(weight, begin, end));
        continue;
      }
      changed = true;
      TensorInfo tensor;
      tensor.name =
          (weight.getSymName() + "[" + Twine(m) + "] " + nameOf(format) + " calibrated from " +
           llvm::join(tensorsOf(slicesOf(weight, begin, end)), ", "))
              .str();
      tensor.dtype = Storage::F32;
      tensor.dtypeName = "F32";
      tensor.shape = {rows, cols};
      tensor.encoding = {format, false};
      tensor.codes = format.element;
      TensorInfo scales = tensor;
      scales.name += ":scale";
      scales.shape[1] /= format.group;
      scales.encoding.reset();
      scales.codes.reset();
      const Coded coded{weight.getSymName().str(), format, m, false};
      matrices[tensor.name] = coded;
      matrices[scales.name] = coded;
      matrices[scales.name].scales = true;
      sources.push_back(SourceAttr::get(builder.getContext(), builder.getStringAttr(tensor.name),
                                        {0, 0}, {rows, cols}, false));
      add(std::move(tensor));
      addCompanion(std::move(scales));
    }
    if (!changed)
      continue;
    weight.setSourcesAttr(builder.getArrayAttr(sources));
    weight.setAlong(0);
  }
}

Status CalibratedTensors::readElements(const TensorInfo &tensor, uint64_t begin,
                                       std::span<float> out) const {
  auto found = matrices.find(tensor.name);
  if (found == matrices.end())
    return checkpoint->read(tensor.name, begin, out);
  const Coded &coded = found->second;
  if (coded.scales)
    return codes->readScales(coded.weight, coded.format, coded.matrix, int64_t(begin), out);
  // Groups divide rows, so that they are counted as elements are.
  const auto group = uint64_t(coded.format.group);
  const uint64_t first = begin / group;
  std::vector<uint8_t> elements(out.size());
  std::vector<float> scales(out.empty() ? 0 : (begin + out.size() - 1) / group - first + 1);
  MOE_TRY(codes->readCodes(coded.weight, coded.format, coded.matrix, int64_t(begin), elements));
  MOE_TRY(codes->readScales(coded.weight, coded.format, coded.matrix, int64_t(first), scales));
  for (uint64_t i = 0; i < out.size(); ++i)
    out[i] = dequantize(coded.format, elements[i], scales[(begin + i) / group - first],
                        coded.format.zero());
  return ok();
}
