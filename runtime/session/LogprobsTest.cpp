// Logprobs against sums in long double and a sort.
#include "runtime/session/Logprobs.h"

#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <random>

using namespace moe;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

TEST(Logprobs, EqualASortAndSumsInLongDouble) {
  std::mt19937 random(6);
  for (int round = 0; round < 2000; ++round) {
    const size_t vocab = 1 + random() % 300;
    std::normal_distribution<float> normal(0, random() % 2 ? 4.f : 40.f);
    std::vector<float> logits(vocab);
    for (float &logit : logits) {
      logit = normal(random);
      if (round % 3 == 0)
        logit = std::round(logit / 4); // ties
      if (round % 5 == 0 && random() % 3 == 0)
        logit = -inf;
    }
    logits[random() % vocab] = 2;
    std::vector<int32_t> order(vocab);
    for (size_t i = 0; i < vocab; ++i)
      order[i] = int32_t(i);
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
    });
    long double others = 0;
    for (size_t i = 1; i < vocab; ++i)
      others += std::exp((long double)logits[order[i]] - logits[order[0]]);
    const auto expected = [&](int32_t token) {
      return logits[token] == -inf
                 ? -inf
                 : float((long double)logits[token] - logits[order[0]] - std::log1p(others));
    };

    const int32_t token = int32_t(random() % vocab), most = int32_t(random() % 25);
    std::vector<TokenLogprob> likely{{1, 1.f}}; // what was there is forgotten
    auto chosen = logprobs(logits, token, most, likely);
    ASSERT_TRUE(chosen) << chosen.error().message;
    ASSERT_FLOAT_EQ(*chosen, expected(token));
    ASSERT_EQ(likely.size(), std::min(size_t(most), vocab));
    for (size_t i = 0; i < likely.size(); ++i) {
      ASSERT_EQ(likely[i].token, order[i]);
      ASSERT_FLOAT_EQ(likely[i].logprob, expected(order[i]));
    }
  }
}

TEST(Logprobs, OfLargeLogitsDoNotOverflow) {
  std::vector<TokenLogprob> likely;
  EXPECT_FLOAT_EQ(*logprobs(std::vector<float>{3e38f, 3e38f, -3e38f}, 0, 1, likely),
                  -std::log(2.f));
  EXPECT_EQ(likely[0].token, 0);
  EXPECT_EQ(*logprobs(std::vector<float>{-inf, 3}, 1, 0, likely), 0);
  EXPECT_EQ(*logprobs(std::vector<float>{-inf, 3}, 0, 0, likely), -inf);
}

TEST(Logprobs, RefuseWhatIsNoDistribution) {
  std::vector<TokenLogprob> likely;
  const auto message = [&](std::vector<float> logits, int32_t token, int32_t most) {
    auto result = logprobs(logits, token, most, likely);
    return result ? std::string() : result.error().message;
  };
  EXPECT_EQ(message({1, std::nanf("")}, 0, 1), "the logit of token 1 is not a finite number");
  EXPECT_EQ(message({inf, 2}, 0, 0), "the logit of token 0 is not a finite number");
  EXPECT_EQ(message({-inf, -inf}, 0, 1), "the logits of all tokens are minus infinity");
  EXPECT_EQ(message({1, 2}, 2, 1), "there is no logit of token 2 among 2");
  EXPECT_EQ(message({1, 2}, -1, 1), "there is no logit of token -1 among 2");
  EXPECT_NE(message({}, 0, 1), "");
  EXPECT_EQ(message({1, 2}, 0, -1), "logprobs of -1 likely tokens were asked for");
}

} // namespace
