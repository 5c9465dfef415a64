// Arithmetic on sources, done on slices: those of a numbered source are boxes of the stack until
// the last step takes the stack apart.
#include "dialects/moe/WeightSources.h"
#include "llvm/ADT/StringSet.h"

using namespace mlir;
using namespace moe;

static int64_t elementsOf(const TensorSlice &box) { return ShapedType::getNumElements(box.sizes); }

/// The dimension of the tensor that dimension `dim` of the box runs along.
static size_t tensorDim(const TensorSlice &box, size_t dim) {
  size_t rank = box.sizes.size();
  return box.transposed && dim + 2 >= rank ? 2 * rank - 3 - dim : dim;
}

/// `count` indices of dimension `dim` of the box, from `first` on.
static TensorSlice narrow(TensorSlice box, size_t dim, int64_t first, int64_t count) {
  dim = tensorDim(box, dim);
  box.offsets[dim] += first;
  box.sizes[dim] = count;
  return box;
}

/// Appends the elements [begin, end) of the box, which has one index only of each dimension before
/// `dim`: whole indices of `dim` as one box, and what is left of an index before and after them
/// along the dimensions further in.
static void slice(const TensorSlice &box, size_t dim, int64_t begin, int64_t end,
                  std::vector<TensorSlice> &result) {
  if (begin == 0 && end == elementsOf(box)) {
    result.push_back(box);
    return;
  }
  int64_t inner = 1; // elements of one index
  for (size_t i = dim + 1; i < box.sizes.size(); ++i)
    inner *= box.sizes[tensorDim(box, i)];
  auto part = [&](int64_t index, int64_t from, int64_t to) {
    slice(narrow(box, dim, index, 1), dim + 1, from - index * inner, to - index * inner, result);
  };

  int64_t first = llvm::divideCeil(begin, inner), last = end / inner; // whole indices
  if (first > last)
    return part(last, begin, end);
  if (begin < first * inner)
    part(first - 1, begin, first * inner);
  if (first < last)
    result.push_back(narrow(box, dim, first, last - first));
  if (last * inner < end)
    part(last, last * inner, end);
}

/// The elements [begin, end) of the weight as boxes.
static std::vector<TensorSlice> boxesOf(WeightOp weight, int64_t begin, int64_t end) {
  std::vector<TensorSlice> boxes, result;
  for (auto source : weight.getSources().getAsRange<SourceAttr>())
    boxes.push_back({source.getTensor().str(), source.getOffsets().vec(), source.getSizes().vec(),
                     source.getTransposed()});
  // Where one follows the other, and where there is one, no parts take turns.
  ArrayRef<int64_t> shape = weight.getType().getShape();
  int64_t parts = 1;
  if (boxes.size() > 1)
    parts = ShapedType::getNumElements(shape.take_front(weight.getAlong()));
  int64_t partSize = 0;
  for (const TensorSlice &box : boxes)
    partSize += elementsOf(box) / std::max<int64_t>(parts, 1);
  if (begin >= end || partSize == 0)
    return result;
  for (int64_t part = begin / partSize; part * partSize < end; ++part) {
    int64_t start = part * partSize; // of the part of the current box
    for (const TensorSlice &box : boxes) {
      int64_t count = elementsOf(box) / parts;
      int64_t from = std::max<int64_t>(begin - start, 0), to = std::min(end - start, count);
      if (from < to)
        slice(box, 0, part * count + from, part * count + to, result);
      start += count;
    }
  }
  return result;
}

/// Appends the slices of the tensors that a box is made of.
static void appendTensors(TensorSlice box, std::vector<TensorSlice> &result) {
  const size_t at = box.tensor.find("{}");
  if (at == std::string::npos) {
    result.push_back(std::move(box));
    return;
  }
  for (int64_t i = 0; i < box.sizes.front(); ++i) {
    TensorSlice one{box.tensor,
                    {box.offsets.begin() + 1, box.offsets.end()},
                    {box.sizes.begin() + 1, box.sizes.end()},
                    box.transposed};
    one.tensor.replace(at, 2, std::to_string(box.offsets.front() + i));
    result.push_back(std::move(one));
  }
}

Sources moe::sourcesOf(WeightOp weight, int64_t begin, int64_t end) {
  Sources result;
  for (const TensorSlice &box : boxesOf(weight, begin, end))
    result.push_back(SourceAttr::get(weight.getContext(),
                                     StringAttr::get(weight.getContext(), box.tensor), box.offsets,
                                     box.sizes, box.transposed));
  return result;
}

std::vector<TensorSlice> moe::slicesOf(WeightOp weight, int64_t begin, int64_t end) {
  std::vector<TensorSlice> result;
  for (TensorSlice &box : boxesOf(weight, begin, end))
    appendTensors(std::move(box), result);
  return result;
}

std::vector<TensorSlice> moe::slicesOf(WeightOp weight) {
  return slicesOf(weight, 0, weight.getType().getNumElements());
}

std::vector<std::string> moe::tensorsOf(ArrayRef<TensorSlice> slices) {
  std::vector<std::string> names;
  llvm::StringSet<> known;
  for (const TensorSlice &slice : slices)
    if (known.insert(slice.tensor).second)
      names.push_back(slice.tensor);
  return names;
}

LogicalResult moe::gatherWeight(WeightOp weight, const TensorSource &tensors,
                                MutableArrayRef<float> out) {
  assert(int64_t(out.size()) == weight.getType().getNumElements());
  Result<WeightReader> reader = WeightReader::open(tensors, slicesOf(weight));
  if (!reader)
    return weight.emitOpError() << reader.error().message;
  if (Status status = reader->read(0, {out.data(), out.size()}); !status)
    return weight.emitOpError() << "cannot be read: " << status.error().message;
  return success();
}
