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
  TestStep step({}, {1, 2}, {0, 1}, {0, 0}, {0, 1});
  step.choose(std::vector<RowSampling>(2));
  const Status result = (*executor)->run(step);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(logitsOf(**executor, 2), Logits(2 * kVocab));
  EXPECT_EQ(outputOf<int32_t>(**executor, IdsOut, 2), std::vector<int32_t>(2));
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
