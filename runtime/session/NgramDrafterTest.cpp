// Guesses against a search of the whole text, and which rows of a step count.
#include "runtime/session/NgramDrafter.h"

#include "runtime/session/DraftCheck.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <limits>
#include <random>

using namespace moe;

namespace {

// What follows, by the definition: of the latest places where the last tokens stand, the one that
// agrees longest.
std::vector<int32_t> follows(const std::vector<int32_t> &text, size_t count) {
  const int n = NgramDrafter::kLeastMatch, size = int(text.size());
  int best = 0, next = -1, candidates = 0;
  for (int end = size - 2; end >= n - 1 && candidates < NgramDrafter::kCandidates; --end) {
    int length = 0;
    while (length < NgramDrafter::kMostMatch && length <= end &&
           text[end - length] == text[size - 1 - length])
      ++length;
    if (length < n)
      continue;
    ++candidates;
    if (length > best)
      best = length, next = end + 1;
  }
  std::vector<int32_t> longer = text;
  for (size_t i = 0; next >= 0 && i < count; ++i)
    longer.push_back(longer[next + i]);
  return {longer.begin() + size, longer.end()};
}

TEST(NgramDrafter, GuessesWhatASearchFinds) {
  std::mt19937 random(1);
  size_t guesses = 0;
  for (int round = 0; round < 60; ++round) {
    NgramDrafter drafter;
    std::vector<int32_t> text, drafts(7);
    const int vocab = 2 + int(random() % 4), period = 1 + int(random() % 30);
    const auto more = [&] {
      text.push_back(random() % 30 && int(text.size()) >= period
                         ? text[text.size() - size_t(period)]
                         : int32_t(random() % vocab) * 1000003);
      return text.back();
    };
    for (int prompt = int(random() % 300); prompt > 0; --prompt)
      more();
    drafter.addPrompt(text);
    for (int i = 0; i < 300; ++i) {
      const size_t count = drafter.propose(drafts, {0, 0}); // any chance is worth it
      const auto expected = follows(text, drafts.size());
      ASSERT_EQ(count, expected.size()) << "after " << text.size() << " tokens";
      ASSERT_TRUE(std::equal(expected.begin(), expected.end(), drafts.begin()));
      guesses += count;
      drafter.add(more());
    }
  }
  EXPECT_GT(guesses, 50000u);
}

TEST(NgramDrafter, LearnsWhenGuessesAreWorthIt) {
  std::vector<int32_t> drafts(8);
  NgramDrafter drafter;
  EXPECT_EQ(drafter.propose(drafts), 0u); // no text
  // A text that repeats itself: soon as many as there may be.
  for (int i = 0; i < 200; ++i)
    drafter.add(i % 10);
  EXPECT_EQ(drafter.propose(drafts), 8u);
  EXPECT_EQ(drafter.propose(std::span(drafts).first(3)), 3u);
  EXPECT_EQ(drafter.propose({}), 0u);
  EXPECT_EQ(drafts, (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7}));

  // One where all that was seen is followed by something else: short matches are soon given up.
  drafter.reset();
  std::mt19937 random(2);
  int proposed = 0;
  for (int i = 0; i < 3000; ++i) {
    proposed += drafter.propose(drafts) > 0;
    drafter.add(int32_t(random() % 6));
  }
  EXPECT_LT(proposed, 30);

  // A long passage that comes again is guessed at once, by its length.
  drafter.reset();
  std::vector<int32_t> passage(40);
  for (int32_t &token : passage)
    token = int32_t(random() % 1000);
  drafter.addPrompt(passage);
  for (int i = 0; i < 12; ++i)
    drafter.add(passage[size_t(i)]);
  EXPECT_GE(drafter.propose(drafts), 2u);
  EXPECT_EQ(drafts[0], passage[12]);
}

// Logits whose largest are those of the tokens given, which a greedy sampler then chooses.
TEST(DraftCheck, CountsRowsUpToTheFirstOtherToken) {
  Sampler sampler = *Sampler::create({}, 10);
  const auto logitsOf = [](int32_t token) {
    std::vector<float> logits(10, 0.f);
    logits[size_t(token)] = 1;
    return logits;
  };
  DraftCheck check(3);
  const std::vector<int32_t> drafts{4, 5, 6};
  const auto chosen = [&](std::vector<int32_t> rows) {
    check.start(sampler, drafts);
    for (int32_t token : rows)
      EXPECT_TRUE(check.row(logitsOf(token)));
    return std::vector<int32_t>(check.chosen().begin(), check.chosen().end());
  };
  using Tokens = std::vector<int32_t>;
  EXPECT_EQ(chosen({4, 5, 6, 7}), (Tokens{4, 5, 6, 7}));
  EXPECT_EQ(check.accepted(), 3u);
  EXPECT_EQ(chosen({4, 9, 6, 7}), (Tokens{4, 9}));
  EXPECT_EQ(check.accepted(), 1u);
  EXPECT_EQ(chosen({5, 5, 6, 7}), (Tokens{5}));
  EXPECT_EQ(check.accepted(), 0u);
  EXPECT_FALSE(check.counts());
  // A row that does not count takes no random number, and may be no distribution.
  EXPECT_TRUE(check.row(std::vector<float>(10, std::numeric_limits<float>::quiet_NaN())));
  check.start(sampler, drafts);
  EXPECT_TRUE(check.row(logitsOf(4)));
  check.close();
  EXPECT_TRUE(check.row(logitsOf(5)));
  EXPECT_EQ(check.chosen().size(), 1u);
  check.start(sampler, drafts);
  EXPECT_TRUE(check.row(logitsOf(4)));
  EXPECT_FALSE(check.row(std::vector<float>(10, std::numeric_limits<float>::quiet_NaN())));
  EXPECT_FALSE(check.counts());
  EXPECT_EQ(check.chosen().size(), 1u);
}

} // namespace
