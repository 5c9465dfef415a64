// Slices are read in runs, as long as the tensor has them in one piece.
#include "dialects/moe/WeightSources.h"

#include <numeric>

using namespace mlir;
using namespace moe;

/// Calls `visit` with the element index of each point of a slice.
static LogicalResult forEachPoint(ArrayRef<int64_t> sizes, ArrayRef<int64_t> strides, int64_t begin,
                                  llvm::function_ref<LogicalResult(int64_t)> visit) {
  if (sizes.empty())
    return visit(begin);
  for (int64_t i = 0; i < sizes.front(); ++i)
    if (failed(forEachPoint(sizes.drop_front(), strides.drop_front(), begin + i * strides.front(),
                            visit)))
      return failure();
  return success();
}

namespace {

/// A slice of a tensor, with the strides of the tensor.
struct Slice {
  StringRef tensor;
  SmallVector<int64_t> shape, sizes, strides;
  int64_t begin = 0; // the index of its first element

  /// The number of dimensions, from the last on, whose elements lie one after the other.
  size_t consecutiveDims() const {
    size_t dims = 1;
    while (dims < sizes.size() && sizes[sizes.size() - dims] == shape[sizes.size() - dims])
      ++dims;
    return std::min(dims, sizes.size());
  }

  LogicalResult read(const TensorReader &tensors, MutableArrayRef<float> out) const {
    size_t outer = sizes.size() - consecutiveDims();
    size_t run = size_t(ShapedType::getNumElements(ArrayRef(sizes).drop_front(outer)));
    return forEachPoint(ArrayRef(sizes).take_front(outer), strides, begin, [&](int64_t index) {
      LogicalResult done = tensors.read(tensor, index, out.take_front(run));
      out = out.drop_front(run);
      return done;
    });
  }

  /// As `read`, with the last two dimensions swapped.
  LogicalResult readTransposed(const TensorReader &tensors, MutableArrayRef<float> out) const {
    // Rows are read in bands, so that the columns are written in runs too.
    constexpr int64_t bandRows = 64;
    size_t outer = sizes.size() - 2;
    int64_t rows = sizes[outer], columns = sizes[outer + 1];
    std::vector<float> buffer(size_t(std::min(bandRows, rows) * columns));
    return forEachPoint(ArrayRef(sizes).take_front(outer), strides, begin, [&](int64_t matrix) {
      for (int64_t first = 0; first < rows; first += bandRows) {
        int64_t count = std::min(bandRows, rows - first);
        Slice band{tensor,
                   {shape[outer], shape[outer + 1]},
                   {count, columns},
                   {strides[outer], strides[outer + 1]},
                   matrix + first * strides[outer]};
        if (failed(band.read(tensors, MutableArrayRef(buffer).take_front(count * columns))))
          return failure();
        for (int64_t column = 0; column < columns; ++column)
          for (int64_t row = 0; row < count; ++row)
            out[column * rows + first + row] = buffer[row * columns + column];
      }
      out = out.drop_front(rows * columns);
      return success();
    });
  }
};

} // namespace

LogicalResult moe::gatherSource(WeightOp weight, SourceAttr source, const TensorReader &tensors,
                                MutableArrayRef<float> out) {
  ArrayRef<int64_t> offsets = source.getOffsets(), sizes = source.getSizes();
  assert(int64_t(out.size()) == ShapedType::getNumElements(sizes));
  FailureOr<SmallVector<int64_t>> shape = tensors.shape(source.getTensor());
  if (failed(shape))
    return failure();
  bool fits = shape->size() == sizes.size();
  for (size_t i = 0; fits && i < sizes.size(); ++i)
    fits = offsets[i] <= (*shape)[i] && sizes[i] <= (*shape)[i] - offsets[i];
  if (!fits) {
    InFlightDiagnostic diag = weight.emitOpError() << "has source " << source
                                                   << ", but the tensor in the checkpoint is ";
    llvm::interleave(*shape, diag, "x");
    return diag;
  }
  if (out.empty())
    return success();

  Slice slice{source.getTensor(), *shape, SmallVector<int64_t>(sizes),
              SmallVector<int64_t>(sizes.size(), 1)};
  for (size_t i = sizes.size(); i-- > 1;)
    slice.strides[i - 1] = slice.strides[i] * slice.shape[i];
  slice.begin =
      std::inner_product(offsets.begin(), offsets.end(), slice.strides.begin(), int64_t(0));
  return source.getTransposed() ? slice.readTransposed(tensors, out) : slice.read(tensors, out);
}

LogicalResult moe::gatherWeight(WeightOp weight, const TensorReader &tensors,
                                MutableArrayRef<float> out) {
  assert(int64_t(out.size()) == weight.getType().getNumElements());
  for (auto source : weight.getSources().getAsRange<SourceAttr>()) {
    size_t size = size_t(ShapedType::getNumElements(source.getSizes()));
    if (failed(gatherSource(weight, source, tensors, out.take_front(size))))
      return failure();
    out = out.drop_front(size);
  }
  return success();
}
