#include "runtime/server/StepCosts.h"

#include <gtest/gtest.h>

#include <random>

namespace moe::server {
namespace {

TEST(StepCosts, KnowsNothingAtFirst) {
  const StepCosts costs;
  EXPECT_EQ(costs.of(1), 0);
  EXPECT_EQ(costs.of(500), 0);
  EXPECT_EQ(costs.within(0.1, 500), 500);
}

TEST(StepCosts, InterpolatesBetweenSizes) {
  StepCosts costs;
  costs.observe(4, 10);
  costs.observe(64, 40);
  EXPECT_DOUBLE_EQ(costs.of(4), 10);
  EXPECT_DOUBLE_EQ(costs.of(34), 25);
  EXPECT_DOUBLE_EQ(costs.of(64), 40);
  EXPECT_DOUBLE_EQ(costs.of(128), 80); // no faster than the tokens
  EXPECT_DOUBLE_EQ(costs.of(2), 5);
  EXPECT_EQ(costs.within(25, 500), 34);
  EXPECT_EQ(costs.within(25, 20), 20);
  EXPECT_EQ(costs.within(1, 500), 0);
}

TEST(StepCosts, Rises) {
  std::mt19937 random(1);
  StepCosts costs;
  for (int i = 0; i < 500; ++i) {
    costs.observe(1 + random() % 600, double(random() % 1000));
    for (int64_t tokens = 1; tokens < 700; tokens += 7)
      ASSERT_LE(costs.of(tokens), costs.of(tokens + 7));
  }
}

TEST(StepCosts, FollowsAChangeAndForgivesAnAccident) {
  StepCosts costs;
  for (int i = 0; i < 50; ++i)
    costs.observe(8, 1);
  costs.observe(8, 1000);
  EXPECT_LT(costs.of(8), 1.1);
  for (int i = 0; i < 200; ++i)
    costs.observe(8, 3);
  EXPECT_NEAR(costs.of(8), 3, 0.01);
}

} // namespace
} // namespace moe::server
