// Arithmetic on the sources of weights, and the symbols that hold them.
#include "passes/Weights.h"

using namespace mlir;
using namespace moe;

// The dimension of the checkpoint's tensor that dimension `dim` of the source runs along.
static size_t tensorDim(SourceAttr source, size_t dim) {
  size_t rank = source.getSizes().size();
  return source.getTransposed() && dim + 2 >= rank ? 2 * rank - 3 - dim : dim;
}

// `count` indices of dimension `dim` of the source, from `first` on.
static SourceAttr narrow(SourceAttr source, size_t dim, int64_t first, int64_t count) {
  SmallVector<int64_t> offsets(source.getOffsets()), sizes(source.getSizes());
  offsets[tensorDim(source, dim)] += first;
  sizes[tensorDim(source, dim)] = count;
  return SourceAttr::get(source.getContext(), source.getTensor(), offsets, sizes,
                         source.getTransposed());
}

// Appends the elements [begin, end) of the source, which has one index only of each dimension
// before `dim`: whole indices of `dim` as one source, and what is left of an index before and after
// them along the dimensions further in.
static void slice(SourceAttr source, size_t dim, int64_t begin, int64_t end, Sources &result) {
  if (begin == 0 && end == ShapedType::getNumElements(source.getSizes())) {
    result.push_back(source);
    return;
  }
  int64_t inner = 1; // elements of one index
  for (size_t i = dim + 1; i < source.getSizes().size(); ++i)
    inner *= source.getSizes()[tensorDim(source, i)];
  auto part = [&](int64_t index, int64_t from, int64_t to) {
    slice(narrow(source, dim, index, 1), dim + 1, from - index * inner, to - index * inner, result);
  };

  int64_t first = llvm::divideCeil(begin, inner), last = end / inner; // whole indices
  if (first > last)
    return part(last, begin, end);
  if (begin < first * inner)
    part(first - 1, begin, first * inner);
  if (first < last)
    result.push_back(narrow(source, dim, first, last - first));
  if (last * inner < end)
    part(last, last * inner, end);
}

Sources Weight::sources() const {
  return llvm::to_vector(WeightOp(op).getSources().getAsRange<SourceAttr>());
}

Sources Weight::sources(int64_t begin, int64_t end) const {
  Sources result;
  int64_t start = 0; // of the current source
  for (SourceAttr source : sources()) {
    int64_t count = ShapedType::getNumElements(source.getSizes());
    int64_t from = std::max<int64_t>(begin - start, 0), to = std::min(end - start, count);
    if (from < to)
      slice(source, 0, from, to, result);
    start += count;
  }
  return result;
}

Sources Weight::sourcesOf(int64_t index) const {
  int64_t count = type().getNumElements() / dim(0);
  return sources(index * count, (index + 1) * count);
}

bool moe::sameElements(ArrayRef<Weight> weights) {
  return llvm::all_of(weights, [&](Weight weight) {
    return weight && weights.front() &&
           weight.type().getElementType() == weights.front().type().getElementType();
  });
}

Weight Weights::loadedBy(Value value) {
  auto load = value.getDefiningOp<LoadWeightOp>();
  auto weight = load ? symbols.lookup<WeightOp>(load.getWeight()) : WeightOp();
  return {weight && !weight.getPacking() ? weight : WeightOp()};
}

// "layers.0." for layers.0.q and layers.0.k.
static StringRef commonPrefix(ArrayRef<Weight> weights) {
  StringRef prefix = weights.front().name();
  for (Weight weight : weights) {
    StringRef name = weight.name();
    auto [end, _] = std::mismatch(prefix.begin(), prefix.end(), name.begin(), name.end());
    prefix = prefix.take_front(end - prefix.begin());
  }
  return prefix.take_front(prefix.rfind('.') + 1);
}

// What all parts are encoded in, which the whole then is too if its rows are as long.
static FormatAttr commonEncoding(ArrayRef<Weight> parts, ArrayRef<int64_t> shape) {
  FormatAttr encoding = WeightOp(parts.front().op).getEncodingAttr();
  for (Weight part : parts)
    if (part.op.getEncodingAttr() != encoding || part.type().getShape().back() != shape.back())
      return {};
  return encoding;
}

LoadWeightOp Weights::addAndLoad(PatternRewriter &rewriter, Location loc, ArrayRef<Weight> parts,
                                 StringRef suffix, ArrayRef<int64_t> shape, const Sources &sources,
                                 ArrayRef<Weight> relatives) {
  auto type = RankedTensorType::get(shape, parts.front().type().getElementType());
  WeightOp weight;
  {
    OpBuilder::InsertionGuard guard(rewriter);
    rewriter.setInsertionPoint(parts.front().op);
    SmallVector<Attribute> attributes(sources.begin(), sources.end());
    StringRef prefix = commonPrefix(relatives.empty() ? parts : relatives);
    weight = WeightOp::create(rewriter, loc, (prefix + suffix).str(), type,
                              rewriter.getArrayAttr(attributes), PackingAttr(),
                              commonEncoding(parts, shape));
    symbols.insert(weight);
  }
  return LoadWeightOp::create(rewriter, loc, type, weight.getSymName());
}
