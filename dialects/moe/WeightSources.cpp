// From attributes to the slices that readers take.
#include "dialects/moe/WeightSources.h"

using namespace mlir;
using namespace moe;

std::vector<TensorSlice> moe::slicesOf(ArrayAttr sources) {
  std::vector<TensorSlice> slices;
  for (auto source : sources.getAsRange<SourceAttr>())
    slices.push_back({source.getTensor().str(), source.getOffsets().vec(), source.getSizes().vec(),
                      source.getTransposed()});
  return slices;
}

LogicalResult moe::gatherWeight(WeightOp weight, const TensorSource &tensors,
                                MutableArrayRef<float> out) {
  assert(int64_t(out.size()) == weight.getType().getNumElements());
  Result<WeightReader> reader = WeightReader::open(tensors, slicesOf(weight.getSources()));
  if (!reader)
    return weight.emitOpError() << reader.error().message;
  if (Status status = reader->read(0, {out.data(), out.size()}); !status)
    return weight.emitOpError() << "cannot be read: " << status.error().message;
  return success();
}
