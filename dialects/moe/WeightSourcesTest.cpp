// Slices of tensors, transposed or not, and the reads that they take.
#include "dialects/moe/WeightSources.h"
#include "mlir/Parser/Parser.h"

#include <gtest/gtest.h>
#include <numeric>

using namespace mlir;
using namespace moe;

namespace {

/// A checkpoint of one tensor "t" whose elements are their own index.
class WeightSourcesTest : public testing::Test {
protected:
  WeightSourcesTest() { context.loadDialect<MoeDialect>(); }

  /// The elements of a weight with the given type and sources.
  std::vector<float> gather(SmallVector<int64_t> shape, const std::string &type,
                            const std::string &sources) {
    std::string text = "moe.weight @w : tensor<" + type + "xf32> from [" + sources + "]";
    auto module = parseSourceString<ModuleOp>(text, &context);
    EXPECT_TRUE(module) << text;
    if (!module)
      return {};
    reads.clear();
    TensorReader tensors{.shape = [&](StringRef tensor) -> FailureOr<SmallVector<int64_t>> {
                           if (tensor != "t")
                             return failure();
                           return shape;
                         },
                         .read =
                             [&](StringRef, int64_t begin, MutableArrayRef<float> out) {
                               EXPECT_LE(begin + int64_t(out.size()),
                                         ShapedType::getNumElements(shape));
                               reads.push_back({begin, int64_t(out.size())});
                               std::iota(out.begin(), out.end(), float(begin));
                               return success(begin != failingRead);
                             }};
    WeightOp weight = *module->getOps<WeightOp>().begin();
    std::vector<float> out(size_t(weight.getType().getNumElements()));
    ScopedDiagnosticHandler handler(&context, [&](Diagnostic &diag) { message = diag.str(); });
    if (failed(gatherWeight(weight, tensors, out)))
      return {};
    return out;
  }

  MLIRContext context;
  std::vector<std::pair<int64_t, int64_t>> reads; // begin and count
  std::string message;
  int64_t failingRead = -1;
};

using Reads = std::vector<std::pair<int64_t, int64_t>>;

TEST_F(WeightSourcesTest, WholeTensorsAreOneRead) {
  EXPECT_EQ(gather({2, 3}, "2x3", "#moe.source<\"t\", [0, 0], [2, 3]>"),
            (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(reads, (Reads{{0, 6}}));
}

TEST_F(WeightSourcesTest, SlicesAreReadInRuns) {
  EXPECT_EQ(gather({3, 4}, "2x2", "#moe.source<\"t\", [1, 1], [2, 2]>"),
            (std::vector<float>{5, 6, 9, 10}));
  EXPECT_EQ(reads, (Reads{{5, 2}, {9, 2}}));
  // Whole rows lie one after the other.
  EXPECT_EQ(gather({3, 4}, "2x4", "#moe.source<\"t\", [1, 0], [2, 4]>"),
            (std::vector<float>{4, 5, 6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(reads, (Reads{{4, 8}}));
  EXPECT_EQ(gather({2, 3, 2}, "2x1x2", "#moe.source<\"t\", [0, 1, 0], [2, 1, 2]>"),
            (std::vector<float>{2, 3, 8, 9}));
  EXPECT_EQ(reads, (Reads{{2, 2}, {8, 2}}));
}

TEST_F(WeightSourcesTest, SourcesFollowEachOther) {
  EXPECT_EQ(gather({4}, "4", "#moe.source<\"t\", [2], [2]>, #moe.source<\"t\", [0], [2]>"),
            (std::vector<float>{2, 3, 0, 1}));
}

TEST_F(WeightSourcesTest, TransposesTheSlice) {
  EXPECT_EQ(gather({2, 3}, "3x2", "#moe.source<\"t\", [0, 0], [2, 3], true>"),
            (std::vector<float>{0, 3, 1, 4, 2, 5}));
  // One matrix after the other; the gate is the first half of the columns.
  EXPECT_EQ(gather({2, 2, 4}, "2x2x2", "#moe.source<\"t\", [0, 0, 0], [2, 2, 2], true>"),
            (std::vector<float>{0, 4, 1, 5, 8, 12, 9, 13}));
  EXPECT_EQ(gather({2, 2, 4}, "1x2x2", "#moe.source<\"t\", [1, 0, 2], [1, 2, 2], true>"),
            (std::vector<float>{10, 14, 11, 15}));
}

TEST_F(WeightSourcesTest, TransposesInBands) {
  std::vector<float> out = gather({150, 3}, "3x150", "#moe.source<\"t\", [0, 0], [150, 3], true>");
  ASSERT_EQ(out.size(), 450u);
  for (int64_t c = 0; c < 3; ++c)
    for (int64_t r = 0; r < 150; ++r)
      ASSERT_EQ(out[size_t(c * 150 + r)], float(r * 3 + c));
  EXPECT_EQ(reads, (Reads{{0, 192}, {192, 192}, {384, 66}}));
}

TEST_F(WeightSourcesTest, SlicesMustFit) {
  EXPECT_TRUE(gather({3, 4}, "2x2", "#moe.source<\"t\", [2, 0], [2, 2]>").empty());
  EXPECT_EQ(message, "'moe.weight' op has source #moe.source<\"t\", [2, 0], [2, 2]>, but the "
                     "tensor in the checkpoint is 3x4");
  EXPECT_TRUE(gather({12}, "2x2", "#moe.source<\"t\", [0, 0], [2, 2]>").empty());
  EXPECT_TRUE(gather({3, 4}, "4", "#moe.source<\"absent\", [0], [4]>").empty());
  failingRead = 0;
  EXPECT_TRUE(gather({2, 2}, "2x2", "#moe.source<\"t\", [0, 0], [2, 2], true>").empty());
}

} // namespace
