// The sampler with bias, penalties, masks and filters, against plain double precision over random
// inputs, and what it refuses.
#include "runtime/session/Sampler.h"

#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <map>
#include <random>

using namespace moe;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

Sampler make(const SamplerOptions &options, int64_t vocab) {
  auto sampler = Sampler::create(options, vocab);
  EXPECT_TRUE(sampler) << sampler.error().message;
  return std::move(*sampler);
}

// What a request is asked for beside its options.
struct Asked {
  SamplerOptions options;
  std::vector<int32_t> prompt, generated, forbidden;
  std::vector<uint32_t> mask;
};

// Logits as the header describes them, token by token.
std::vector<float> changed(const Asked &asked, std::vector<float> logits) {
  const SamplerOptions &o = asked.options;
  for (int32_t token = 0; token < int32_t(logits.size()); ++token) {
    float &logit = logits[token];
    const auto count = std::count(asked.generated.begin(), asked.generated.end(), token);
    const bool seen = count > 0 || std::count(asked.prompt.begin(), asked.prompt.end(), token) > 0;
    if (logit != -inf) {
      for (const LogitBias &entry : o.logitBias)
        if (entry.token == token)
          logit = float(logit + entry.bias);
      if (seen)
        logit = float(logit < 0 ? logit * o.repetitionPenalty : logit / o.repetitionPenalty);
      logit = float(logit - o.frequencyPenalty * double(count));
      logit = float(logit - (count > 0 ? o.presencePenalty : 0));
    }
    const bool masked = !asked.mask.empty() && !(asked.mask[token / 32] & (1u << token % 32));
    if (masked || std::count(asked.forbidden.begin(), asked.forbidden.end(), token))
      logit = -inf;
  }
  return logits;
}

// Tokens that the filters leave, by id, with their probabilities.
std::map<int32_t, double> distribution(const SamplerOptions &o, const std::vector<float> &logits) {
  std::vector<std::pair<float, int32_t>> order; // most likely first
  for (size_t i = 0; i < logits.size(); ++i)
    if (logits[i] != -inf)
      order.push_back({-logits[i], int32_t(i)});
  std::sort(order.begin(), order.end());
  if (o.topK > 0 && order.size() > size_t(o.topK))
    order.resize(o.topK);
  std::vector<double> p;
  double total = 0;
  for (auto [logit, token] : order)
    total += p.emplace_back(std::exp((double(order[0].first) - logit) / o.temperature));
  if (o.topP < 1) {
    double sum = 0;
    size_t kept = 0;
    while (kept < p.size() && sum < o.topP * total)
      sum += p[kept++];
    order.resize(kept);
  }
  std::map<int32_t, double> left;
  total = 0;
  for (size_t i = 0; i < order.size(); ++i)
    if (p[i] >= o.minP) // the best one's is 1
      total += left[order[i].second] = p[i];
  for (auto &[token, probability] : left)
    probability /= total;
  return left;
}

class Random {
public:
  explicit Random(uint32_t seed) : engine(seed) {}
  int below(int n) { return int(engine() % uint32_t(n)); }
  double real(double from, double to) {
    return std::uniform_real_distribution<double>(from, to)(engine);
  }
  std::vector<int32_t> tokens(int most, int vocab) {
    std::vector<int32_t> list(size_t(below(most + 1)));
    for (int32_t &token : list)
      token = below(vocab);
    return list;
  }
  Asked asked(int vocab) {
    Asked a;
    SamplerOptions &o = a.options;
    for (int32_t token : tokens(4, vocab))
      if (std::none_of(o.logitBias.begin(), o.logitBias.end(),
                       [&](const LogitBias &entry) { return entry.token == token; }))
        o.logitBias.push_back({token, below(4) ? real(-4, 4) : below(2) ? -100. : 100.});
    o.repetitionPenalty = below(2) ? 1 : real(0.5, 2);
    o.frequencyPenalty = below(2) ? 0 : real(-2, 2);
    o.presencePenalty = below(2) ? 0 : real(-2, 2);
    o.temperature = below(3) ? real(0.3, 2) : 0;
    o.topK = below(2) ? 0 : 1 + below(vocab + 2);
    o.topP = below(2) ? 1 : real(0.1, 1);
    o.minP = below(2) ? 0 : real(0, 0.5);
    o.seed = engine();
    a.prompt = tokens(20, vocab);
    a.generated = tokens(20, vocab);
    if (below(2))
      a.forbidden = tokens(4, vocab);
    if (below(2)) {
      a.mask.resize(size_t(vocab + 31) / 32);
      const int kind = below(3);
      for (uint32_t &word : a.mask)
        word = kind == 0 ? ~0u : kind == 1 ? uint32_t(engine()) : below(2) ? 0 : ~0u;
    }
    return a;
  }
  std::vector<float> logits(int vocab) {
    std::vector<float> list;
    const bool coarse = below(3) == 0; // many ties
    for (int i = 0; i < vocab; ++i)
      list.push_back(below(12) == 0 ? -inf : coarse ? float(below(5)) - 2 : float(real(-6, 6)));
    return list;
  }

private:
  std::mt19937 engine;
};

// The token is the one whose part of the naive distribution the random number falls into; the two
// may differ by the rounding of the weights alone.
TEST(SamplerReference, ChoosesAsPlainDoublePrecisionDoes) {
  Random random(3);
  int greedy = 0, drawn = 0, none = 0;
  for (int round = 0; round < 6000; ++round) {
    const int vocab = 1 + random.below(100);
    const Asked asked = random.asked(vocab);
    const std::vector<float> raw = random.logits(vocab);
    Sampler sampler = make(asked.options, vocab);
    for (int32_t token : asked.prompt)
      sampler.observePrompt(token);
    for (int32_t token : asked.generated)
      sampler.observe(token);
    ASSERT_TRUE(sampler.setMask(asked.mask));
    sampler.forbid(asked.forbidden);

    const std::vector<float> logits = changed(asked, raw);
    const auto best = std::max_element(logits.begin(), logits.end());
    auto token = sampler.sample(raw);
    if (*best == -inf) {
      ASSERT_FALSE(token);
      ++none;
      continue;
    }
    ASSERT_TRUE(token) << token.error().message;
    if (asked.options.temperature == 0) {
      ASSERT_EQ(*token, best - logits.begin());
      ++greedy;
      continue;
    }
    SamplerOptions plain;
    plain.temperature = 1;
    plain.seed = asked.options.seed;
    const double u = double(make(plain, vocab).draw()->random) * 0x1p-64;
    const auto left = distribution(asked.options, logits);
    ASSERT_TRUE(left.count(*token)) << "round " << round;
    double below = 0;
    for (const auto &[other, probability] : left)
      below += other < *token ? probability : 0;
    ASSERT_GE(u, below - 1e-6) << "round " << round;
    ASSERT_LE(u, below + left.at(*token) + 1e-6) << "round " << round;
    ++drawn;
  }
  EXPECT_GT(greedy, 1000);
  EXPECT_GT(drawn, 2500);
  EXPECT_GT(none, 20);
}

// One sampler over many steps with changing masks: what it counted and its random numbers are those
// of one that is made anew each time; a shared workspace makes no difference.
TEST(SamplerReference, KeepsItsStateFromStepToStep) {
  Random random(4);
  for (int round = 0; round < 60; ++round) {
    const int vocab = 33 + random.below(40);
    Asked asked = random.asked(vocab);
    asked.prompt = random.tokens(30, vocab);
    asked.generated.clear();
    auto workspace = Sampler::makeWorkspace(vocab);
    Sampler sampler = *Sampler::create(asked.options, vocab, workspace),
            other = *Sampler::create(random.asked(vocab).options, vocab, workspace);
    for (int32_t token : asked.prompt)
      sampler.observePrompt(token);
    uint64_t draws = 0;
    for (int step = 0; step < 20; ++step) {
      asked.mask = random.asked(vocab).mask;
      asked.forbidden = random.tokens(3, vocab);
      const std::vector<float> raw = random.logits(vocab);
      (void)other.sample(random.logits(vocab));

      Sampler fresh = make(asked.options, vocab);
      for (int32_t token : asked.prompt)
        fresh.observePrompt(token);
      for (int32_t token : asked.generated)
        fresh.observe(token);
      for (uint64_t i = 0; i < draws; ++i)
        fresh.advance();
      for (Sampler *each : {&sampler, &fresh}) {
        ASSERT_TRUE(each->setMask(asked.mask));
        each->forbid(asked.forbidden);
      }
      const auto token = sampler.sample(raw), expected = fresh.sample(raw);
      ASSERT_EQ(bool(token), bool(expected));
      if (!token)
        continue;
      ASSERT_EQ(*token, *expected);
      ++draws;
      sampler.observe(*token);
      asked.generated.push_back(*token);
    }
  }
}

TEST(SamplerReference, PenaltiesByHand) {
  SamplerOptions options;
  options.frequencyPenalty = 0.5;
  options.presencePenalty = 1;
  Sampler sampler = make(options, 3);
  const std::vector<float> logits{4, 3.6f, 1};
  sampler.observePrompt(0); // counts for the repetition penalty alone
  EXPECT_EQ(*sampler.sample(logits), 0);
  sampler.observe(0);
  EXPECT_EQ(*sampler.sample(logits), 1); // 2.5, 3.6, 1
  sampler.observe(1);
  EXPECT_EQ(*sampler.sample(logits), 0); // 2.5, 2.1, 1
  for (int i = 0; i < 3; ++i)
    sampler.observe(i % 2);
  EXPECT_EQ(*sampler.sample(logits), 1); // 1.5, 1.6, 1
  sampler.observe(1);
  sampler.observe(0);
  EXPECT_EQ(*sampler.sample(logits), 1); // 1, 1.1, 1
  sampler.observe(1);
  EXPECT_EQ(*sampler.sample(logits), 0); // 1, 0.6, 1: of equals the lower id
  sampler.reset();
  EXPECT_EQ(*sampler.sample(logits), 0);
}

TEST(SamplerReference, ABiasComesBeforeThePenalties) {
  SamplerOptions options;
  options.logitBias = {{1, 2}};
  options.repetitionPenalty = 4;
  Sampler sampler = make(options, 2);
  sampler.observePrompt(1);
  EXPECT_EQ(*sampler.sample(std::vector<float>{1.9f, 6}), 1); // (6 + 2) / 4 is 2
  EXPECT_EQ(*sampler.sample(std::vector<float>{2.1f, 6}), 0); // and not 6 / 4 + 2
}

TEST(SamplerReference, OnlySampleCanWithAnyOfThem) {
  auto draws = [](auto change) {
    SamplerOptions options;
    change(options);
    return make(options, 8).draw().has_value();
  };
  EXPECT_TRUE(draws([](auto &) {}));
  EXPECT_TRUE(draws([](auto &o) { o.temperature = 1; }));
  EXPECT_FALSE(draws([](auto &o) { o.logitBias = {{3, 1}}; }));
  EXPECT_FALSE(draws([](auto &o) { o.repetitionPenalty = 1.1; }));
  EXPECT_FALSE(draws([](auto &o) { o.frequencyPenalty = -1; }));
  EXPECT_FALSE(draws([](auto &o) { o.presencePenalty = 1; }));
}

TEST(SamplerReference, TellsADeviceWhatIsMasked) {
  const std::vector<uint32_t> mask{0xf0000003, 5};
  const std::vector<int32_t> tokens{1, 34, 70, -3};
  Sampler sampler = make({}, 40);
  auto words = [&] {
    std::vector<uint32_t> words(2, 0x12345678);
    sampler.writeMask(words);
    return words;
  };
  EXPECT_FALSE(sampler.draw()->masked);
  ASSERT_TRUE(sampler.setMask(mask));
  EXPECT_TRUE(sampler.draw()->masked);
  EXPECT_EQ(words(), mask);
  sampler.forbid(tokens);
  EXPECT_EQ(words(), (std::vector<uint32_t>{0xf0000001, 1}));
  ASSERT_TRUE(sampler.setMask({}));
  EXPECT_TRUE(sampler.draw()->masked);
  EXPECT_EQ(words(), (std::vector<uint32_t>{0xfffffffd, 0xfffffffb}));
  sampler.forbid({});
  EXPECT_FALSE(sampler.draw()->masked);
  sampler.forbid(tokens);
  ASSERT_TRUE(sampler.setMask(mask));
  sampler.reset();
  EXPECT_FALSE(sampler.draw()->masked);
}

TEST(SamplerReference, RefusesWhatIsOutOfRange) {
  auto message = [](auto change) {
    SamplerOptions options;
    change(options);
    auto sampler = Sampler::create(options, 10);
    return sampler ? std::string() : sampler.error().message;
  };
  const double nan = std::nan("");
  EXPECT_EQ(message([](auto &o) { o.frequencyPenalty = 2.5; }),
            "frequency penalty must be -2 to 2, not 2.5");
  EXPECT_EQ(message([](auto &o) { o.presencePenalty = -3; }),
            "presence penalty must be -2 to 2, not -3");
  EXPECT_NE(message([&](auto &o) { o.frequencyPenalty = nan; }), "");
  EXPECT_NE(message([&](auto &o) { o.presencePenalty = nan; }), "");
  EXPECT_NE(message([&](auto &o) { o.repetitionPenalty = nan; }), "");
  EXPECT_EQ(message([](auto &o) { o.logitBias = {{3, 101}}; }),
            "logit bias of token 3 must be -100 to 100, not 101");
  EXPECT_NE(message([&](auto &o) { o.logitBias = {{3, nan}}; }), "");
  EXPECT_EQ(message([](auto &o) { o.logitBias = {{0, 1}, {10, 1}}; }),
            "logit bias has token 10, the vocabulary has 0 to 9");
  EXPECT_NE(message([](auto &o) { o.logitBias = {{-1, 1}}; }), "");
  EXPECT_EQ(message([](auto &o) { o.logitBias = {{4, 1}, {2, 3}, {4, 2}}; }),
            "logit bias has token 4 more than once");
  EXPECT_EQ(message([](auto &o) { o.logitBias.resize(1025); }),
            "logit bias has 1025 entries, at most 1024 are allowed");
  EXPECT_EQ(message([](auto &o) {
              o.logitBias = {{0, -100}, {9, 100}};
              o.frequencyPenalty = -2, o.presencePenalty = 2;
            }),
            "");

  Sampler sampler = make({}, 33);
  const std::vector<uint32_t> words(3);
  EXPECT_EQ(sampler.setMask(words).error().message,
            "a mask of 3 words, the vocabulary of 33 tokens needs 2");
  EXPECT_FALSE(sampler.setMask(std::span(words).first(1)));
  EXPECT_TRUE(sampler.draw()); // and nothing changed
  EXPECT_FALSE(Sampler::create({}, 33, Sampler::makeWorkspace(20)));
}

TEST(SamplerReference, SaysWhenNothingMayBeChosen) {
  for (double temperature : {0.0, 1.0}) {
    SamplerOptions options;
    options.temperature = temperature;
    Sampler sampler = make(options, 3);
    const std::vector<uint32_t> mask{6};
    const std::vector<int32_t> forbidden{2, 99, -1}; // ids that do not exist change nothing
    const std::vector<float> logits{5, 1, 2};
    ASSERT_TRUE(sampler.setMask(mask));
    sampler.forbid(forbidden);
    EXPECT_EQ(*sampler.sample(logits), 1);
    EXPECT_EQ(*sampler.sample(std::vector<float>{std::nanf(""), 1, inf}), 1); // never looked at
    EXPECT_EQ(
        sampler.sample(std::vector<float>{5, -inf, 2}).error().message,
        "no token may be chosen: the logits of all that are not masked or forbidden are minus "
        "infinity");
    EXPECT_EQ(sampler.sample(std::vector<float>{5, std::nanf(""), 2}).error().message,
              "the logit of token 1 is not a number");
    EXPECT_FALSE(sampler.sample(std::vector<float>(4)));
  }
}

// Whatever the options, a finite logit stays one that can be chosen.
TEST(SamplerReference, FiniteLogitsStayFinite) {
  SamplerOptions options;
  options.logitBias = {{0, 100}, {1, -100}};
  options.repetitionPenalty = 0.01;
  options.temperature = 1;
  Sampler sampler = make(options, 2);
  sampler.observe(0);
  sampler.observe(1);
  EXPECT_EQ(*sampler.sample(std::vector<float>{3e38f, -3e38f}), 0);
  EXPECT_EQ(*sampler.sample(std::vector<float>{-inf, -3e38f}), 1);
  EXPECT_FALSE(sampler.sample(std::vector<float>{inf, 0}));
}

} // namespace
