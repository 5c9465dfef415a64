// The loop of generate, on a session whose logits are a hash of the history.
#include "runtime/session/Generate.h"
#include "runtime/session/TestExecutor.h"

#include <gtest/gtest.h>

using namespace moe;

namespace {

struct Case {
  explicit Case(int64_t context = 0) {
    SessionOptions options;
    options.context = context;
    auto made = fakeSession(fakeModel(), options);
    EXPECT_TRUE(made);
    session.emplace(std::move(*made));
    sequence = *session->addSequence();
  }
  Result<Generation> run(const GenerateOptions &options) {
    return generate(*session, sequence, prompt, options, nullptr, [&](const Piece &piece) {
      told.push_back(piece.token);
      return ok();
    });
  }
  std::optional<Session> session;
  int32_t sequence = 0;
  std::vector<int32_t> prompt{1, 2, 3}, told;
};

std::vector<int32_t> greedy(int64_t count) {
  Case test;
  GenerateOptions options;
  options.maxTokens = count;
  return test.run(options)->tokens;
}

TEST(Generate, StopsAtMaxTokens) {
  Case test;
  GenerateOptions options;
  options.maxTokens = 5;
  auto result = test.run(options);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->reason, FinishReason::Length);
  EXPECT_EQ(result->tokens.size(), 5u);
  EXPECT_EQ(test.told, result->tokens);
  EXPECT_EQ(result->decodeSteps, 4);
  EXPECT_EQ(test.session->length(test.sequence), 3 + 4); // the last one is not fed
  Case none;
  options.maxTokens = 0;
  EXPECT_TRUE(none.run(options)->tokens.empty());
}

TEST(Generate, IsTheSameEveryTime) {
  EXPECT_EQ(greedy(30), greedy(30));
  auto sampled = [](uint64_t seed) {
    Case test;
    GenerateOptions options;
    options.maxTokens = 30;
    options.sampling.temperature = 5;
    options.sampling.seed = seed;
    return test.run(options)->tokens;
  };
  EXPECT_EQ(sampled(1), sampled(1));
  EXPECT_NE(sampled(1), sampled(2));
}

TEST(Generate, StopsAtAStopToken) {
  auto tokens = greedy(10);
  Case test;
  GenerateOptions options;
  options.stopTokens = {tokens[3]};
  auto first = std::find(tokens.begin(), tokens.end(), tokens[3]) - tokens.begin();
  auto result = test.run(options);
  ASSERT_TRUE(result);
  EXPECT_EQ(result->reason, FinishReason::StopToken);
  EXPECT_EQ(result->tokens, std::vector<int32_t>(tokens.begin(), tokens.begin() + first + 1));
  EXPECT_EQ(int64_t(test.told.size()), first); // the stop token is not told
}

TEST(Generate, StopsWhenTheContextIsFull) {
  Case test(10);
  auto result = test.run({});
  ASSERT_TRUE(result);
  EXPECT_EQ(result->reason, FinishReason::Length);
  EXPECT_EQ(test.session->length(test.sequence), 10);
  EXPECT_EQ(result->tokens, greedy(8)); // 3 of the prompt, 7 fed, and one more is known
}

TEST(Generate, RefusesAPromptThatDoesNotFit) {
  Case test(10);
  test.prompt.assign(11, 1);
  auto result = test.run({});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message,
            "the prompt has 11 tokens, the context has room for 10; ask for "
            "more with --context");
  test.prompt.clear();
  EXPECT_FALSE(test.run({}));
}

TEST(Generate, CancelIsAReasonAndErrorsAreErrors) {
  Case test;
  std::atomic<bool> cancel{false};
  test.session->setCancel(&cancel);
  auto result =
      generate(*test.session, test.sequence, test.prompt, {}, nullptr, [&](const Piece &) {
        cancel = true;
        return ok();
      });
  ASSERT_TRUE(result);
  EXPECT_EQ(result->reason, FinishReason::Cancelled);
  EXPECT_EQ(result->tokens.size(), 1u);
  cancel = false;
  result = generate(*test.session, test.sequence, test.prompt, {}, nullptr,
                    [&](const Piece &) -> Status { return Error{Code::IoError, "full"}; });
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message, "full");
}

TEST(Generate, GoesOnWithASequence) {
  auto tokens = greedy(20);
  Case test;
  GenerateOptions options;
  options.maxTokens = 8;
  auto first = test.run(options);
  test.prompt = {first->tokens.back()}; // told, not yet fed
  options.maxTokens = 12;
  auto second = test.run(options);
  ASSERT_TRUE(second);
  first->tokens.insert(first->tokens.end(), second->tokens.begin(), second->tokens.end());
  EXPECT_EQ(first->tokens, tokens);
}

} // namespace
