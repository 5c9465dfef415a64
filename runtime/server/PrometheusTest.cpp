#include "runtime/server/Prometheus.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace moe::server {
namespace {

using Type = PrometheusText::Type;

TEST(Histogram, CountsAValueOnItsBound) {
  Histogram histogram({1, 2.5});
  for (const double value : {0.5, 1.0, 1.5, 2.5, 7.0})
    histogram.record(value);
  EXPECT_EQ(histogram.cumulative(), (std::vector<uint64_t>{2, 4, 5}));
  EXPECT_EQ(histogram.sum(), 12.5);
}

TEST(Histogram, CountsAsANaiveCountDoes) {
  std::mt19937 random(1);
  const std::vector<double> bounds = Histogram::oneTwoFive(5000);
  Histogram histogram(bounds);
  std::vector<double> values;
  for (int i = 0; i < 1000; ++i) {
    values.push_back(std::pow(10, std::uniform_real_distribution(-1., 5.)(random)));
    histogram.record(values.back());
  }
  const std::vector<uint64_t> counts = histogram.cumulative();
  for (size_t i = 0; i < bounds.size(); ++i)
    EXPECT_EQ(counts[i], std::count_if(values.begin(), values.end(),
                                       [&](double value) { return value <= bounds[i]; }))
        << bounds[i];
  EXPECT_EQ(counts.back(), 1000u);
}

TEST(Histogram, RecordsManyAtOnce) {
  Histogram histogram({1});
  histogram.record(0.25, 4);
  histogram.record(3, 0);
  EXPECT_EQ(histogram.cumulative(), (std::vector<uint64_t>{4, 4}));
  EXPECT_EQ(histogram.sum(), 1);
}

TEST(Histogram, BoundsOneTwoFive) {
  EXPECT_EQ(Histogram::oneTwoFive(100), (std::vector<double>{1, 2, 5, 10, 20, 50, 100}));
  EXPECT_EQ(Histogram::oneTwoFive(49), (std::vector<double>{1, 2, 5, 10, 20}));
  EXPECT_TRUE(Histogram::oneTwoFive(0).empty());
}

TEST(PrometheusText, WritesFamilies) {
  Histogram histogram({0.001, 1, 2560});
  histogram.record(0.5);
  histogram.record(1e4);
  PrometheusText text;
  text.family("a_total", Type::Counter, "how\\many\nlines");
  text.sample({{"model_name", "say \"\\\"\n"}, {"engine", "0"}}, 3);
  text.family("b", Type::Gauge, "no labels");
  text.sample({}, 0.25);
  text.family("c", Type::Histogram, "times");
  text.sample({{"engine", "0"}}, histogram);
  EXPECT_EQ(text.take(), "# HELP a_total how\\\\many\\nlines\n"
                         "# TYPE a_total counter\n"
                         "a_total{model_name=\"say \\\"\\\\\\\"\\n\",engine=\"0\"} 3.0\n"
                         "# HELP b no labels\n"
                         "# TYPE b gauge\n"
                         "b 0.25\n"
                         "# HELP c times\n"
                         "# TYPE c histogram\n"
                         "c_bucket{engine=\"0\",le=\"0.001\"} 0.0\n"
                         "c_bucket{engine=\"0\",le=\"1.0\"} 1.0\n"
                         "c_bucket{engine=\"0\",le=\"2560.0\"} 1.0\n"
                         "c_bucket{engine=\"0\",le=\"+Inf\"} 2.0\n"
                         "c_count{engine=\"0\"} 2.0\n"
                         "c_sum{engine=\"0\"} 10000.5\n");
}

TEST(PrometheusText, WritesWhatIsNoNumber) {
  PrometheusText text;
  text.family("x", Type::Gauge, "");
  for (const double value : std::initializer_list<double>{NAN, INFINITY, -INFINITY, 1e300, -0.0})
    text.sample({}, value);
  EXPECT_EQ(text.take(), "# HELP x \n# TYPE x gauge\nx NaN\nx +Inf\nx -Inf\nx 1e+300\nx -0.0\n");
}

} // namespace
} // namespace moe::server
