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
