// Slices of weights hold the elements that they should, however the sources lie.
#include "passes/Weights.h"
#include "dialects/moe/WeightSources.h"
#include "mlir/Parser/Parser.h"
#include "runtime/weights/TestTensors.h"
#include <gtest/gtest.h>

#include <random>

using namespace mlir;
using namespace moe;

namespace {

// Every element of the checkpoint is its place, so that none can be taken for another.
test::TestTensors places(ArrayRef<int64_t> shape) {
  test::TestTensors tensors;
  tensors.add("t", shape.vec(), [](uint64_t begin, std::span<float> out) {
    std::iota(out.begin(), out.end(), float(begin));
    return ok();
  });
  return tensors;
}

class WeightsTest : public testing::Test {
protected:
  WeightsTest() : module(ModuleOp::create(UnknownLoc::get(&context))) {
    context.loadDialect<MoeDialect>();
  }

  WeightOp make(StringRef name, ArrayRef<int64_t> shape, const Sources &sources) {
    OpBuilder builder = OpBuilder::atBlockEnd(module->getBody());
    SmallVector<Attribute> attributes(sources.begin(), sources.end());
    return WeightOp::create(builder, builder.getUnknownLoc(), name,
                            RankedTensorType::get(shape, builder.getF32Type()),
                            builder.getArrayAttr(attributes), PackingAttr(), FormatAttr());
  }

  std::vector<float> elements(WeightOp weight, ArrayRef<int64_t> shape) {
    std::vector<float> values(weight.getType().getNumElements());
    EXPECT_TRUE(succeeded(gatherWeight(weight, places(shape), values)));
    return values;
  }

  MLIRContext context;
  OwningOpRef<ModuleOp> module;
};

TEST_F(WeightsTest, SlicesHoldTheirElements) {
  std::mt19937 random(1);
  auto below = [&](int64_t end) { return int64_t(random() % end); };
  for (int round = 0; round < 500; ++round) {
    size_t rank = 1 + below(4);
    SmallVector<int64_t> shape;
    for (size_t i = 0; i < rank; ++i)
      shape.push_back(1 + below(5));
    Sources sources;
    int64_t count = 0;
    for (int64_t n = 1 + below(3); n > 0; --n) {
      SmallVector<int64_t> offsets, sizes;
      for (int64_t size : shape) {
        offsets.push_back(below(size));
        sizes.push_back(1 + below(size - offsets.back()));
      }
      sources.push_back(SourceAttr::get(&context, StringAttr::get(&context, "t"), offsets, sizes,
                                        rank > 1 && below(2)));
      count += ShapedType::getNumElements(sizes);
    }
    Weight weight{make("w", {count}, sources)};
    std::vector<float> all = elements(weight.op, shape);

    int64_t begin = below(count), end = begin + 1 + below(count - begin);
    Sources slice = sourcesOf(weight.op, begin, end);
    std::vector<float> found = elements(make("s", {end - begin}, slice), shape);
    EXPECT_EQ(found, std::vector<float>(all.begin() + begin, all.begin() + end));
    // A piece at each end of each dimension, and the middle, for each source.
    EXPECT_LE(slice.size(), sources.size() * (2 * rank + 1));
  }
}

TEST_F(WeightsTest, ASliceOfWholeIndicesIsOneSource) {
  auto source = SourceAttr::get(&context, StringAttr::get(&context, "t"), {1, 0, 4}, {6, 8, 4},
                                /*transposed=*/true);
  Weight weight{make("w", {6, 4, 8}, {source})};
  Sources slice = sourcesOf(weight.op, 2 * 32, 3 * 32);
  ASSERT_EQ(slice.size(), 1u);
  EXPECT_EQ(slice[0].getOffsets(), ArrayRef<int64_t>({3, 0, 4}));
  EXPECT_EQ(slice[0].getSizes(), ArrayRef<int64_t>({1, 8, 4}));
  EXPECT_TRUE(slice[0].getTransposed());
  EXPECT_EQ(sourcesOf(weight.op, 0, 6 * 4 * 8), Sources{source});
}

} // namespace
