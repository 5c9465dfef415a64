// NullDevice: the tests of all devices that need no kernels, and that its results are zeros.
#include "runtime/device/null/NullDevice.h"
#include "runtime/device/TestDeviceSuite.h"

namespace moe {
namespace {

using namespace testplan;

INSTANTIATE_TEST_SUITE_P(Null, DeviceSuite,
                         testing::Values(SuiteDevice{"null",
                                                     [] { return null::openNullDevice("cpu"); },
                                                     [](DevicePlan &) {}}),
                         suiteName);

TEST(NullDevice, GivesZeros) {
  auto device = null::openNullDevice("cuda");
  ASSERT_TRUE(device);
  EXPECT_EQ((*device)->planDevice(), "cuda");
  DevicePlan plan = choosingPlan();
  plan.sections.clear(); // which it does not read
  auto executor = (*device)->createExecutor(plan, executorOptions);
  ASSERT_TRUE(executor) << executor.error().message;
  const Tables tables;
  const std::vector<int32_t> tokens{1, 2}, positions{0, 1}, sequences{0, 0}, rows{0, 1};
  const std::vector<RowOutput> outputs{{true, true, {}}, {true, true, {2.5f, 3, 100, 20, 4000}}};
  auto result = (*executor)->run(
      {tokens, positions, sequences, rows, {tables.chunked, tables.global}, outputs});
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(Logits(result->logits.begin(), result->logits.end()), Logits(2 * kVocab));
  EXPECT_EQ(std::vector<int32_t>(result->ids.begin(), result->ids.end()), std::vector<int32_t>(2));
}

TEST(NullDevice, HasRoomForAnySession) {
  auto device = null::openNullDevice("cpu");
  auto memory = (*device)->memory(handMadePlan());
  ASSERT_TRUE(memory && *memory);
  EXPECT_EQ((*memory)->free, UINT64_MAX);
  EXPECT_TRUE((*device)->createExecutor(handMadePlan(), {2, 4, {int64_t(1) << 44, 8}}));
}

} // namespace
} // namespace moe
