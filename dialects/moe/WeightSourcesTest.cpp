// What the sources of a weight stand for, and what is said where they cannot be read.
#include "dialects/moe/WeightSources.h"
#include "mlir/Parser/Parser.h"
#include "runtime/weights/TestTensors.h"

#include <gtest/gtest.h>

using namespace mlir;
using namespace moe;

namespace {

class WeightSourcesTest : public testing::Test {
protected:
  WeightSourcesTest() { context.loadDialect<MoeDialect>(); }

  /// The elements of a weight with the given type and sources; none, and a message, on failure.
  std::vector<float> gather(const std::string &type, const std::string &sources) {
    std::string text = "moe.weight @w : tensor<" + type + "xf32> from " + sources;
    auto module = parseSourceString<ModuleOp>(text, &context);
    EXPECT_TRUE(module) << text;
    if (!module)
      return {};
    WeightOp weight = *module->getOps<WeightOp>().begin();
    std::vector<float> out(size_t(weight.getType().getNumElements()));
    ScopedDiagnosticHandler handler(&context, [&](Diagnostic &diag) { message = diag.str(); });
    if (failed(gatherWeight(weight, tensors, out)))
      return {};
    return out;
  }

  MLIRContext context;
  test::TestTensors tensors;
  std::string message;
};

TEST_F(WeightSourcesTest, SourcesFollowEachOther) {
  tensors.add("t", {2, 2}, {0, 1, 2, 3});
  tensors.add("u", {1}, {9});
  EXPECT_EQ(gather("5", R"([#moe.source<"t", [0, 0], [2, 2], true>, #moe.source<"u", [0], [1]>])"),
            (std::vector<float>{0, 2, 1, 3, 9}));
}

/// A number stands for an index of the stack, which begins where the offset says.
TEST_F(WeightSourcesTest, NumberedTensorsAreAStack) {
  tensors.add("e.9.w", {2, 2}, {0, 1, 2, 3});
  tensors.add("e.10.w", {2, 2}, {4, 5, 6, 7});
  EXPECT_EQ(gather("2x2x2", R"([#moe.source<"e.{}.w", [9, 0, 0], [2, 2, 2], true>])"),
            (std::vector<float>{0, 2, 1, 3, 4, 6, 5, 7}));
  EXPECT_EQ(gather("2x1x2", R"([#moe.source<"e.{}.w", [9, 1, 0], [2, 1, 2]>])"),
            (std::vector<float>{2, 3, 6, 7}));
  EXPECT_TRUE(gather("2x2x2", R"([#moe.source<"e.{}.w", [10, 0, 0], [2, 2, 2]>])").empty());
  EXPECT_EQ(message, "'moe.weight' op takes a slice of tensor 'e.11.w', which the checkpoint does "
                     "not have");
}

/// As of gate and up of experts, in turns, whatever the shapes of the sources are.
TEST_F(WeightSourcesTest, PartsTakeTurns) {
  tensors.add("g.0", {1, 2}, {0, 1});
  tensors.add("g.1", {1, 2}, {2, 3});
  tensors.add("u", {4, 2}, {10, 11, 12, 13, 14, 15, 16, 17});
  const char *sources = R"([#moe.source<"g.{}", [0, 0, 0], [2, 1, 2]>,
                            #moe.source<"u", [0, 0], [4, 2]>] along )";
  EXPECT_EQ(gather("2x3x2", std::string(sources) + "1"),
            (std::vector<float>{0, 1, 10, 11, 12, 13, 2, 3, 14, 15, 16, 17}));
  EXPECT_EQ(gather("2x3x2", std::string(sources) + "0"),
            (std::vector<float>{0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 16, 17}));
  EXPECT_EQ(gather("2x2x3", std::string(sources) + "2"),
            (std::vector<float>{0, 10, 11, 1, 12, 13, 2, 14, 15, 3, 16, 17}));
}

/// What is compact and what is written out are the same elements, and any part of them.
TEST_F(WeightSourcesTest, CompactSourcesAreTheWrittenOut) {
  for (int e = 0; e < 5; ++e)
    for (const char *which : {"g", "u"}) {
      std::vector<float> values(12);
      for (int i = 0; i < 12; ++i)
        values[i] = float(100 * e + i + (*which == 'u' ? 50 : 0));
      tensors.add(which + std::to_string(e), {3, 4}, values);
    }
  std::string out;
  for (int e = 1; e < 5; ++e)
    for (const char *which : {"g", "u"})
      out += (out.empty() ? "" : ", ") + ("#moe.source<\"" + std::string(which)) +
             std::to_string(e) + "\", [0, 1], [3, 2], true>";
  const std::string text = R"mlir(
    moe.weight @compact : tensor<4x4x3xf32> from
        [#moe.source<"g{}", [1, 0, 1], [4, 3, 2], true>,
         #moe.source<"u{}", [1, 0, 1], [4, 3, 2], true>] along 1
    moe.weight @out : tensor<4x4x3xf32> from [)mlir" +
                           out + "]";
  auto module = parseSourceString<ModuleOp>(text, &context);
  ASSERT_TRUE(module);
  auto compact = module->lookupSymbol<WeightOp>("compact");
  auto written = module->lookupSymbol<WeightOp>("out");
  EXPECT_EQ(slicesOf(compact), slicesOf(written));
  EXPECT_EQ(slicesOf(compact).size(), 8u);
  for (int64_t begin = 0; begin <= 48; ++begin)
    for (int64_t end = begin; end <= 48; ++end) {
      ASSERT_EQ(slicesOf(compact, begin, end), slicesOf(written, begin, end));
      // As sources of a weight, which takes them along its only dimension.
      OpBuilder builder(&context);
      builder.setInsertionPointToEnd(module->getBody());
      Sources sources = sourcesOf(compact, begin, end);
      auto part = WeightOp::create(
          builder, builder.getUnknownLoc(), "part",
          RankedTensorType::get({end - begin}, builder.getF32Type()),
          builder.getArrayAttr(SmallVector<Attribute>(sources.begin(), sources.end())),
          PackingAttr(), FormatAttr());
      ASSERT_TRUE(succeeded(part.verify()));
      ASSERT_EQ(slicesOf(part), slicesOf(written, begin, end));
      part.erase();
    }
}

TEST_F(WeightSourcesTest, NoElementsAreNoSlices) {
  EXPECT_TRUE(gather("0x3", R"([#moe.source<"e.{}", [0, 0], [0, 3]>])").empty());
  EXPECT_TRUE(gather("0x3", R"([#moe.source<"e.{}", [0, 0], [4611686018427387904, 0]>,
                                 #moe.source<"f", [0], [0]>] along 1)")
                  .empty());
  EXPECT_TRUE(gather("0", "[]").empty());
  EXPECT_EQ(message, "");
}

TEST_F(WeightSourcesTest, WhatCannotBeReadIsSaidAtTheWeight) {
  tensors.add("t", {3, 4}, std::vector<float>(12));
  EXPECT_TRUE(gather("2x2", R"([#moe.source<"t", [2, 0], [2, 2]>])").empty());
  EXPECT_EQ(message, "'moe.weight' op takes the slice at [2, 0] of size [2, 2] from tensor 't' of "
                     "the checkpoint, which has the shape [3, 4]");
  EXPECT_TRUE(gather("4", R"([#moe.source<"absent", [0], [4]>])").empty());
  EXPECT_EQ(message, "'moe.weight' op takes a slice of tensor 'absent', which the checkpoint does "
                     "not have");
  tensors.add("gone", {4}, [](uint64_t, std::span<float>) -> Status {
    return Error{Code::IoError, "the disk is gone"};
  });
  EXPECT_TRUE(gather("4", R"([#moe.source<"gone", [0], [4]>])").empty());
  EXPECT_EQ(message, "'moe.weight' op cannot be read: the disk is gone");
}

} // namespace
