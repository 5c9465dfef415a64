// Every element exactly once.
#include "compiler/import/TensorLedger.h"
#include "compiler/import/TestTensors.h"

using namespace moe;
using namespace moe::test;

// What becomes of a [4, 6] tensor of which these boxes were taken.
static std::string settle(std::vector<TensorBox> boxes, bool shareLast = false) {
  MemoryTensors tensors({{"w", "F32", {4, 6}, std::vector<float>(24)}});
  TensorLedger ledger(tensors);
  for (size_t i = 0; i < boxes.size(); ++i)
    EXPECT_NE(ledger.take("w", {4, 6}, boxes[i], shareLast && i + 1 == boxes.size()), nullptr);
  std::vector<std::string> ignored;
  std::string message =
      messageOf(ledger.settle([](llvm::StringRef) { return std::string(); }, ignored));
  EXPECT_TRUE(ignored.empty());
  llvm::StringRef rest = message;
  rest.consume_front("the tensors do not fit config.json, 1 problem: ");
  return rest.str();
}

TEST(TensorLedger, WantsEachElementOnce) {
  EXPECT_EQ(settle({{{0, 0}, {4, 6}}}), "success");
  EXPECT_EQ(settle({{{0, 0}, {4, 3}}, {{0, 3}, {4, 3}}}), "success");
  EXPECT_EQ(settle({{{0, 0}, {1, 6}}, {{3, 0}, {1, 6}}, {{1, 0}, {2, 2}}, {{1, 2}, {2, 4}}}),
            "success");
  EXPECT_EQ(settle({}), "tensor w [4, 6] is not part of the model");
}

TEST(TensorLedger, RefusesElementsTakenTwice) {
  EXPECT_EQ(settle({{{0, 0}, {4, 6}}, {{0, 0}, {4, 6}}}), "tensor w is used twice");
  EXPECT_EQ(settle({{{0, 0}, {4, 4}}, {{0, 3}, {4, 3}}}), "tensor w is used twice");
  // As many elements as the tensor has, but not the same.
  EXPECT_EQ(settle({{{0, 0}, {4, 3}}, {{0, 1}, {4, 3}}}), "tensor w is used twice");
  EXPECT_EQ(settle({{{0, 0}, {4, 6}}, {{0, 0}, {4, 6}}}, /*shareLast=*/true), "success");
}

TEST(TensorLedger, RefusesElementsLeftOver) {
  EXPECT_EQ(settle({{{0, 0}, {4, 5}}}), "tensor w is used in part only");
  EXPECT_EQ(settle({{{0, 0}, {2, 6}}, {{3, 0}, {1, 6}}}), "tensor w is used in part only");
}
