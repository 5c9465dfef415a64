// Joins weights, and keeps the symbols that hold them.
#include "passes/Weights.h"

using namespace mlir;
using namespace moe;

Sources Weight::sources() const {
  WeightOp weight = op;
  if (weight.getAlong() == 0)
    return llvm::to_vector(weight.getSources().getAsRange<SourceAttr>());
  return sourcesOf(weight, 0, type().getNumElements());
}

// The parts of numbered or stacked tensors take turns as they are; others are taken apart.
Joined moe::joinRows(ArrayRef<Weight> parts) {
  Joined joined;
  if (llvm::all_of(parts, [](Weight part) { return WeightOp(part.op).getSources().size() == 1; })) {
    joined.along = 1;
    for (Weight part : parts)
      llvm::append_range(joined.sources, part.sources());
    return joined;
  }
  for (int64_t index = 0; index < parts.front().dim(0); ++index)
    for (Weight part : parts) {
      int64_t count = part.type().getNumElements() / part.dim(0);
      llvm::append_range(joined.sources, sourcesOf(part.op, index * count, (index + 1) * count));
    }
  return joined;
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
                                 StringRef suffix, ArrayRef<int64_t> shape, const Joined &joined,
                                 ArrayRef<Weight> relatives) {
  auto type = RankedTensorType::get(shape, parts.front().type().getElementType());
  WeightOp weight;
  {
    OpBuilder::InsertionGuard guard(rewriter);
    rewriter.setInsertionPoint(parts.front().op);
    SmallVector<Attribute> attributes(joined.sources.begin(), joined.sources.end());
    StringRef prefix = commonPrefix(relatives.empty() ? parts : relatives);
    weight = WeightOp::create(rewriter, loc, (prefix + suffix).str(), type,
                              rewriter.getArrayAttr(attributes), PackingAttr(),
                              commonEncoding(parts, shape), joined.along);
    symbols.insert(weight);
  }
  return LoadWeightOp::create(rewriter, loc, type, weight.getSymName());
}
