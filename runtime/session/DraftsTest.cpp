// Generation with drafts against generation without: the tokens must be the same, and what the
// sequence then has.
#include "runtime/session/Generate.h"
#include "runtime/session/TestExecutor.h"

#include <gtest/gtest.h>
#include <random>

using namespace moe;

namespace {

struct Outcome {
  std::vector<int32_t> tokens, told;
  FinishReason reason = FinishReason::Length;
  int64_t length = 0;         // of the sequence
  std::vector<int32_t> after; // what greedy generation without drafts goes on with
  int64_t drafted = 0, accepted = 0, steps = 0;
};

// Generates, and then goes on without drafts; `failAfter`: the caller fails after so many tokens.
Outcome generated(const SessionModel &model, std::vector<int32_t> prompt, GenerateOptions options,
                  int32_t maxRows = 1 << 20, int64_t failAfter = -1) {
  SessionOptions sessionOptions;
  sessionOptions.context = 700;
  auto session = fakeSession(model, sessionOptions, maxRows);
  EXPECT_TRUE(session);
  const int32_t sequence = *session->addSequence();
  Outcome outcome;
  auto result =
      generate(*session, sequence, prompt, options, nullptr, [&](const Piece &piece) -> Status {
        outcome.told.push_back(piece.token);
        if (failAfter >= 0 && int64_t(outcome.told.size()) > failAfter)
          return Error{Code::IoError, "full"};
        return ok();
      });
  EXPECT_EQ(bool(result), failAfter < 0);
  if (result) {
    outcome.tokens = result->tokens;
    outcome.reason = result->reason;
    outcome.drafted = result->drafted;
    outcome.accepted = result->accepted;
    outcome.steps = result->decodeSteps;
  }
  outcome.length = session->length(sequence);
  // The cache must hold what it should: each row's logits depend on all that it may see.
  std::vector<int32_t> all = std::move(prompt);
  all.insert(all.end(), outcome.told.begin(), outcome.told.end());
  if (outcome.tokens.size() > outcome.told.size())
    all.push_back(outcome.tokens.back()); // a stop token
  if (size_t(outcome.length) < all.size() && outcome.length < session->context()) {
    GenerateOptions plain;
    plain.maxTokens = 4;
    auto more = generate(*session, sequence, std::span(all).subspan(size_t(outcome.length)), plain,
                         nullptr, [](const Piece &) { return ok(); });
    EXPECT_TRUE(more) << more.error().message;
    outcome.after = more->tokens;
  }
  return outcome;
}

// Few tokens may be chosen, so that n-grams come again and drafts are right now and then.
SamplerOptions fewTokens(std::mt19937 &random) {
  SamplerOptions options;
  for (int32_t token = 0; token < 50; ++token)
    if (token % 25)
      options.logitBias.push_back({token, -100});
  options.temperature = random() % 4 ? 0.2 + double(random() % 100) / 3 : 0;
  options.repetitionPenalty = random() % 3 ? 1 : 1.1;
  options.frequencyPenalty = random() % 3 ? 0 : 0.3;
  options.seed = random();
  return options;
}

TEST(Drafts, GiveTheTokensThatThereAreWithout) {
  std::mt19937 random(7);
  int64_t accepted = 0, refused = 0;
  for (int round = 0; round < 150; ++round) {
    // Chunks that end inside of steps, in pages and at their edges.
    const SessionModel model =
        fakeModel(std::array{64, 96, 128, 70}[random() % 4], 32, random() % 2);
    std::vector<int32_t> prompt;
    for (size_t length = 1 + random() % 300; length > 0; --length)
      prompt.push_back(int32_t(random() % 2) * 25);
    GenerateOptions options;
    options.sampling = fewTokens(random);
    options.maxTokens = int64_t(random() % 200);
    if (random() % 4 == 0)
      options.maxTokens = -1; // to the end of the context
    if (random() % 4 == 0)
      options.stopTokens = {int32_t(random() % 50)};
    const Outcome expected = generated(model, prompt, options);
    options.drafts = 1 + int32_t(random() % 9);
    if (random() % 3)
      options.draftCost = {0, 0}; // any guess is checked
    const int32_t maxRows = random() % 3 ? 1 << 20 : 1 + int32_t(random() % 4);
    const Outcome found = generated(model, prompt, options, maxRows);
    ASSERT_EQ(found.tokens, expected.tokens) << "round " << round;
    ASSERT_EQ(found.told, expected.told);
    ASSERT_EQ(found.reason, expected.reason);
    ASSERT_EQ(found.length, expected.length);
    ASSERT_EQ(found.after, expected.after) << "round " << round;
    ASSERT_EQ(found.accepted + found.steps, expected.steps);
    EXPECT_EQ(expected.drafted, 0);
    accepted += found.accepted;
    refused += found.drafted - found.accepted;
  }
  EXPECT_GT(accepted, 300);
  EXPECT_GT(refused, 100);
}

// A caller that ends the generation in the middle of a step's tokens.
TEST(Drafts, LeaveTheSequenceAsItWasWhenTheCallerEnds) {
  std::mt19937 random(8);
  for (int round = 0; round < 60; ++round) {
    std::vector<int32_t> prompt(1 + random() % 200);
    for (int32_t &token : prompt)
      token = int32_t(random() % 2) * 25;
    GenerateOptions options;
    options.sampling = fewTokens(random);
    const int64_t failAfter = int64_t(random() % 150);
    const Outcome expected = generated(fakeModel(), prompt, options, 1 << 20, failAfter);
    options.drafts = 5;
    options.draftCost = {0, 0};
    const Outcome found = generated(fakeModel(), prompt, options, 1 << 20, failAfter);
    ASSERT_EQ(found.told, expected.told);
    ASSERT_EQ(found.length, expected.length);
    ASSERT_EQ(found.after, expected.after);
  }
}

TEST(Drafts, RefuseLessThanNone) {
  SessionOptions sessionOptions;
  Session session = std::move(*fakeSession(fakeModel(), sessionOptions));
  GenerateOptions options;
  options.drafts = -1;
  const std::vector<int32_t> prompt{1, 2};
  auto result = generate(session, *session.addSequence(), prompt, options, nullptr,
                         [](const Piece &) { return ok(); });
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message, "drafts must be 0 (none) or more, not -1");
}

} // namespace
