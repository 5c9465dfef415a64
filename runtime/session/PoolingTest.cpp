// Pooled vectors, by hand and by properties.
#include "runtime/session/Pooling.h"

#include <cmath>
#include <gtest/gtest.h>
#include <random>

using namespace moe;

namespace {

using Floats = std::vector<float>;

TEST(Pooling, IsTheMeanOrTheLast) {
  Pooling pooling(2);
  pooling.add(Floats{1, 5});
  EXPECT_EQ(pooling.result(PoolingKind::Mean), pooling.result(PoolingKind::Last));
  pooling.add(Floats{5, 3});
  EXPECT_EQ(pooling.tokens(), 2);
  EXPECT_EQ(pooling.result(PoolingKind::Mean), (Floats{0.6f, 0.8f}));
  EXPECT_EQ(pooling.result(PoolingKind::Last),
            (Floats{float(5 / std::sqrt(34.0)), float(3 / std::sqrt(34.0))}));
}

TEST(Pooling, HasLengthOne) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0.1f, 3);
  for (int64_t channels : {1, 7, 5120})
    for (float size : {1e-15f, 1.0f, 1e15f}) {
      Pooling pooling(channels);
      std::vector<double> sums(channels);
      for (int token = 0; token < 20; ++token) {
        Floats state(channels);
        for (int64_t c = 0; c < channels; ++c)
          sums[c] += state[c] = size * normal(random);
        pooling.add(state);
      }
      for (PoolingKind kind : {PoolingKind::Mean, PoolingKind::Last}) {
        double squares = 0;
        for (float x : pooling.result(kind))
          squares += double(x) * x;
        EXPECT_NEAR(squares, 1, 1e-6);
      }
      // In the direction of the sum.
      const Floats mean = pooling.result(PoolingKind::Mean);
      double along = 0, squares = 0;
      for (int64_t c = 0; c < channels; ++c)
        along += mean[c] * sums[c], squares += sums[c] * sums[c];
      EXPECT_NEAR(along / std::sqrt(squares), 1, 1e-6);
    }
}

TEST(Pooling, OfNothingIsZero) {
  Pooling pooling(3);
  EXPECT_EQ(pooling.result(PoolingKind::Mean), Floats(3));
  pooling.add(Floats{0, 0, 0});
  EXPECT_EQ(pooling.result(PoolingKind::Last), Floats(3));
}

TEST(Pooling, KeepsWhatIsNoNumber) {
  Pooling pooling(2);
  pooling.add(Floats{NAN, 1});
  pooling.add(Floats{2, 0});
  EXPECT_TRUE(std::isnan(pooling.result(PoolingKind::Mean)[1]));
  EXPECT_EQ(pooling.result(PoolingKind::Last), (Floats{1, 0}));
}

TEST(Pooling, HasNames) {
  EXPECT_EQ(poolingNamed("mean"), PoolingKind::Mean);
  EXPECT_EQ(poolingNamed("last"), PoolingKind::Last);
  EXPECT_EQ(poolingNamed("Mean"), std::nullopt);
  EXPECT_EQ(poolingNamed(""), std::nullopt);
}

} // namespace
