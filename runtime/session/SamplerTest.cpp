// The sampler by hand-made logits: exact where the answer is one token, frequencies where not.
#include "runtime/session/Sampler.h"

#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <numeric>

using namespace moe;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
const float nan_ = std::numeric_limits<float>::quiet_NaN();

Sampler make(SamplerOptions options, int64_t vocab) {
  auto sampler = Sampler::create(options, vocab);
  EXPECT_TRUE(sampler) << sampler.error().message;
  return std::move(*sampler);
}

std::vector<double> frequencies(Sampler &sampler, const std::vector<float> &logits, int draws) {
  std::vector<double> counts(logits.size());
  for (int i = 0; i < draws; ++i) {
    auto token = sampler.sample(logits);
    EXPECT_TRUE(token);
    counts[*token] += 1.0 / draws;
  }
  return counts;
}

std::vector<double> softmax(const std::vector<float> &logits, double temperature) {
  std::vector<double> p;
  for (float logit : logits)
    p.push_back(std::exp(logit / temperature));
  double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double &value : p)
    value /= sum;
  return p;
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowerOfEquals) {
  Sampler sampler = make({}, 5);
  EXPECT_EQ(*sampler.sample(std::vector<float>{1, 3, 2, 3, -inf}), 1);
  EXPECT_EQ(*sampler.sample(std::vector<float>{-inf, -inf, -5, -inf, -inf}), 2);
  EXPECT_EQ(*sampler.sample(std::vector<float>{-0.f, 0.f, 0, 0, 0}), 0);
}

TEST(Sampler, RefusesLogitsThatAreNotNumbers) {
  for (double temperature : {0.0, 1.0}) {
    SamplerOptions options;
    options.temperature = temperature;
    Sampler sampler = make(options, 3);
    auto result = sampler.sample(std::vector<float>{1, nan_, 2});
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().message, "the logit of token 1 is not a number");
    EXPECT_FALSE(sampler.sample(std::vector<float>{nan_, 1, 2}));
    EXPECT_EQ(sampler.sample(std::vector<float>{0, 1, inf}).error().message,
              "the logit of token 2 is infinite");
    EXPECT_FALSE(sampler.sample(std::vector<float>{-inf, -inf, -inf}));
    EXPECT_FALSE(sampler.sample(std::vector<float>{}));
    EXPECT_FALSE(sampler.sample(std::vector<float>(4)));
    EXPECT_EQ(*sampler.sample(std::vector<float>{-inf, 2, -inf}), 1);
  }
}

TEST(Sampler, RefusesOptionsOutOfRange) {
  auto message = [](auto change) {
    SamplerOptions options;
    change(options);
    auto sampler = Sampler::create(options, 10);
    return sampler ? std::string() : sampler.error().message;
  };
  EXPECT_EQ(message([](auto &o) { o.temperature = -1; }),
            "temperature must be 0 (greedy) or more, not -1");
  EXPECT_EQ(message([](auto &o) { o.topP = 1.5; }), "top-p must be above 0 and at most 1, not 1.5");
  EXPECT_EQ(message([](auto &o) { o.topK = -2; }), "top-k must be 0 (all tokens) or more, not -2");
  EXPECT_NE(message([](auto &o) { o.topP = 0; }), "");
  EXPECT_NE(message([](auto &o) { o.minP = 1; }), "");
  EXPECT_NE(message([](auto &o) { o.repetitionPenalty = 0; }), "");
  EXPECT_NE(message([](auto &o) { o.temperature = nan_; }), "");
  EXPECT_NE(message([](auto &o) { o.temperature = inf; }), "");
  EXPECT_NE(message([](auto &o) { o.topP = nan_; }), "");
  EXPECT_EQ(message([](auto &o) { o.topK = 1000; }), "");
}

TEST(Sampler, PenaltyAsHuggingFaceHasIt) {
  SamplerOptions options;
  options.repetitionPenalty = 2;
  Sampler sampler = make(options, 3);
  const std::vector<float> logits{4, 3, -1};
  EXPECT_EQ(*sampler.sample(logits), 0);
  sampler.observe(0);
  sampler.observe(0);                    // a token counts once
  EXPECT_EQ(*sampler.sample(logits), 1); // 2, 3, -1
  sampler.observe(1);
  EXPECT_EQ(*sampler.sample(logits), 0); // 2, 1.5, -1
  sampler.reset();
  EXPECT_EQ(*sampler.sample(logits), 0);
  sampler.observe(2);
  EXPECT_EQ(*sampler.sample(std::vector<float>{-1.5, -1.8, -1}), 0); // -1 becomes -2
  sampler.observe(-1);
  sampler.observe(99); // ids that do not exist are ignored
}

TEST(Sampler, SameSeedSameTokensOnEveryMachine) {
  SamplerOptions options;
  options.temperature = 0.8;
  options.seed = 42;
  std::vector<float> logits(1000);
  for (size_t i = 0; i < logits.size(); ++i)
    logits[i] = float((i * 2654435761u % 1000)) / 250;
  auto draw = [&](SamplerOptions with) {
    Sampler sampler = make(with, 1000);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 6; ++i)
      tokens.push_back(*sampler.sample(logits));
    return tokens;
  };
  // Recorded once: another machine, compiler or library must give these.
  EXPECT_EQ(draw(options), (std::vector<int32_t>{742, 159, 278, 339, 40, 867}));
  options.topP = 0.5;
  EXPECT_EQ(draw(options), (std::vector<int32_t>{749, 159, 289, 339, 42, 875}));
  options.topP = 1;
  options.topK = 20;
  EXPECT_EQ(draw(options), (std::vector<int32_t>{703, 159, 226, 272, 21, 862}));
  EXPECT_EQ(draw(options), draw(options));
  auto before = draw(options);
  options.seed = 43;
  EXPECT_NE(draw(options), before);
}

TEST(Sampler, ResetStartsAnew) {
  SamplerOptions options;
  options.temperature = 1;
  Sampler sampler = make(options, 100);
  const std::vector<float> logits(100, 0.f);
  std::vector<int32_t> first, second;
  for (int i = 0; i < 10; ++i)
    first.push_back(*sampler.sample(logits));
  sampler.reset();
  for (int i = 0; i < 10; ++i)
    second.push_back(*sampler.sample(logits));
  EXPECT_EQ(first, second);
}

TEST(Sampler, FrequenciesAreTheSoftmax) {
  const std::vector<float> logits{2, 0, 1, -inf, -1, 1.5};
  for (double temperature : {0.5, 1.0, 2.0}) {
    SamplerOptions options;
    options.temperature = temperature;
    options.seed = 7;
    Sampler sampler = make(options, 6);
    auto expected = softmax(logits, temperature);
    auto found = frequencies(sampler, logits, 200000);
    for (size_t i = 0; i < logits.size(); ++i) // 5 standard deviations are at most 0.0056
      EXPECT_NEAR(found[i], expected[i], 0.0056) << "token " << i;
    EXPECT_EQ(found[3], 0);
  }
}

// Which tokens a filter leaves, found by drawing often.
std::vector<int32_t> left(SamplerOptions options, const std::vector<float> &logits) {
  options.temperature = options.temperature ? options.temperature : 1;
  Sampler sampler = make(options, int64_t(logits.size()));
  auto found = frequencies(sampler, logits, 20000);
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < found.size(); ++i)
    if (found[i] > 0)
      tokens.push_back(int32_t(i));
  return tokens;
}

TEST(Sampler, FiltersLeaveWhatTheySay) {
  auto log = [](const std::vector<double> &p) {
    std::vector<float> logits;
    for (double value : p)
      logits.push_back(float(std::log(value)));
    return logits;
  };
  const std::vector<float> logits = log({0.05, 0.4, 0.15, 0.3, 0.1});
  using Ids = std::vector<int32_t>;
  SamplerOptions options;
  options.topK = 2;
  EXPECT_EQ(left(options, logits), (Ids{1, 3}));
  options.topK = 1;
  EXPECT_EQ(left(options, logits), (Ids{1}));
  options = {};
  options.topP = 0.71; // 0.4 + 0.3 are not enough
  EXPECT_EQ(left(options, logits), (Ids{1, 2, 3}));
  options.topP = 0.69;
  EXPECT_EQ(left(options, logits), (Ids{1, 3}));
  options.topP = 0.001; // at least one
  EXPECT_EQ(left(options, logits), (Ids{1}));
  options = {};
  options.minP = 0.3; // 0.12 and more
  EXPECT_EQ(left(options, logits), (Ids{1, 2, 3}));
  options.topK = 4;   // 0.4 0.3 0.15 0.1, whose sum is 0.95
  options.topP = 0.8; // of 0.95: 0.76, so 0.4 + 0.3 + 0.15
  options.minP = 0.5; // 0.2 and more
  EXPECT_EQ(left(options, logits), (Ids{1, 3}));
  // Equal ones at the edge: the lower ids.
  options = {};
  options.topK = 2;
  EXPECT_EQ(left(options, std::vector<float>{0, 1, 0, 0}), (Ids{0, 1}));
}

TEST(Sampler, WhatIsLeftKeepsItsProportions) {
  const std::vector<float> logits{2, 0, 1, -3, -1, 1.5};
  SamplerOptions options;
  options.temperature = 1;
  options.topK = 3;
  Sampler sampler = make(options, 6);
  auto found = frequencies(sampler, logits, 200000);
  auto expected = softmax({2, -inf, 1, -inf, -inf, 1.5}, 1);
  for (size_t i = 0; i < logits.size(); ++i)
    EXPECT_NEAR(found[i], expected[i], 0.0056);
}

TEST(Sampler, ColdIsGreedy) {
  SamplerOptions options;
  options.temperature = 1e-6;
  Sampler sampler = make(options, 3);
  for (int i = 0; i < 1000; ++i)
    EXPECT_EQ(*sampler.sample(std::vector<float>{1, 1.001f, 0}), 1);
}

} // namespace
