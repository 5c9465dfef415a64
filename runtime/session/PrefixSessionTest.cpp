// A session that takes prefixes from its cache gives the logits of fresh sessions: checked with an
// executor whose logits depend on all tokens that a row sees.
#include "runtime/session/TestExecutor.h"

#include <gtest/gtest.h>
#include <random>

using namespace moe;

namespace {

using Tokens = std::vector<int32_t>;
using Row = std::vector<float>;

Session make(SessionModel model, const SessionOptions &options, FakeExecutor **fake = nullptr,
             int32_t maxRows = 1 << 20) {
  auto session = fakeSession(std::move(model), options, maxRows, fake);
  EXPECT_TRUE(session) << session.error().message;
  return std::move(*session);
}

SessionOptions caching(int32_t sequences = 2, int64_t context = 1000) {
  SessionOptions options;
  options.maxSequences = sequences;
  options.context = context;
  options.prefixCache = true;
  return options;
}

Tokens someTokens(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  Tokens tokens(count);
  for (int32_t &token : tokens)
    token = int32_t(random() % 50);
  return tokens;
}

Row lastRow(Session &session, int32_t sequence, std::span<const int32_t> tokens) {
  auto logits = session.append(sequence, tokens);
  EXPECT_TRUE(logits) << logits.error().message;
  return logits ? Row(logits->begin(), logits->end()) : Row();
}

// Of a session that has seen nothing else.
Row fresh(const SessionModel &model, std::span<const int32_t> tokens) {
  Session session = make(model, {});
  return lastRow(session, *session.addSequence(), tokens);
}

int64_t attached(Session &session, int32_t sequence, std::span<const int32_t> tokens) {
  auto length = session.attach(sequence, tokens);
  EXPECT_TRUE(length) << length.error().message;
  return length ? *length : -1;
}

TEST(PrefixSession, AHitGivesTheLogitsOfAFreshSession) {
  for (int32_t chunk : {0, 64, 96, 128, 256}) {
    const SessionModel model = fakeModel(chunk);
    Session session = make(model, caching());
    const Tokens tokens = someTokens(500, 1);
    int32_t first = *session.addSequence();
    EXPECT_EQ(attached(session, first, tokens), 0);
    lastRow(session, first, tokens);
    for (int64_t length : {1, 63, 64, 65, 127, 128, 129, 257, 400, 500}) {
      const auto prompt = std::span(tokens).first(length);
      int32_t s = *session.addSequence();
      const int64_t cached = session.cachedPrefix(prompt);
      EXPECT_EQ(attached(session, s, prompt), cached);
      EXPECT_EQ(session.length(s), cached);
      if (chunk != 96)
        EXPECT_EQ(cached, (length - 1) / 64 * 64);
      EXPECT_EQ(lastRow(session, s, prompt.subspan(cached)), fresh(model, prompt));
      EXPECT_EQ(session.length(s), length);
      session.removeSequence(s);
    }
    EXPECT_EQ(lastRow(session, first, std::span(tokens).first(1)), [&] {
      Tokens longer = tokens;
      longer.push_back(tokens[0]);
      return fresh(model, longer);
    }());
  }
}

TEST(PrefixSession, IsOffUnlessAsked) {
  SessionOptions options = caching();
  options.prefixCache = false;
  Session session = make(fakeModel(), options);
  const Tokens tokens = someTokens(200, 1);
  int32_t s = *session.addSequence();
  lastRow(session, s, tokens);
  session.removeSequence(s);
  s = *session.addSequence();
  EXPECT_EQ(session.cachedPrefix(tokens), 0);
  EXPECT_EQ(attached(session, s, tokens), 0);
  EXPECT_EQ(session.poolUse(0).cached, 0);
}

TEST(PrefixSession, AttachesEmptySequencesAlone) {
  Session session = make(fakeModel(), caching());
  int32_t s = *session.addSequence();
  const Tokens tokens = someTokens(100, 1);
  lastRow(session, s, tokens);
  auto status = session.attach(s, tokens);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, Code::InvalidArgument);
  EXPECT_EQ(session.length(s), 100);
  ASSERT_TRUE(session.truncate(s, 0)); // as after preemption
  EXPECT_EQ(attached(session, s, tokens), 64);
}

TEST(PrefixSession, SaltsAreSeparate) {
  Session session = make(fakeModel(), caching());
  const Tokens tokens = someTokens(200, 1);
  int32_t s = *session.addSequence(3);
  lastRow(session, s, tokens);
  session.removeSequence(s);
  s = *session.addSequence();
  EXPECT_EQ(attached(session, s, tokens), 0);
  session.removeSequence(s);
  EXPECT_EQ(session.cachedPrefix(tokens), 0);
  EXPECT_EQ(session.cachedPrefix(tokens, 3), 192);
  s = *session.addSequence(3);
  EXPECT_EQ(attached(session, s, tokens), 192);
}

TEST(PrefixSession, TentativeTokensAreNotPublished) {
  // Also where a run takes several steps of the device.
  for (int32_t maxStep : {32, 200}) {
    const SessionModel model = fakeModel(512, maxStep);
    Session session = make(model, caching());
    const Tokens tokens = someTokens(200, 1);
    int32_t s = *session.addSequence();
    const std::span<const int32_t> all = tokens;
    lastRow(session, s, all.first(60));
    const Append tentative{s, all.subspan(60, 80), 80, true};
    const auto none = [](size_t, int64_t, std::span<const float>) { return ok(); };
    ASSERT_TRUE(session.run({&tentative, 1}, none));
    EXPECT_EQ(session.cachedPrefix(tokens), 0);
    ASSERT_TRUE(session.truncate(s, 70));
    EXPECT_EQ(session.cachedPrefix(tokens), 0);
    Tokens other(all.begin(), all.begin() + 70);
    const Tokens tail = someTokens(100, 2);
    other.insert(other.end(), tail.begin(), tail.end());
    EXPECT_EQ(lastRow(session, s, tail), fresh(model, other)); // accepts the 70
    EXPECT_EQ(session.cachedPrefix(other), 128);
    EXPECT_EQ(session.cachedPrefix(tokens), 64);
    // The sequence's next step accepts what is left of the tentative ones before it.
    const Append again{s, all.first(30), 1, true};
    ASSERT_TRUE(session.run({&again, 1}, none));
    other.insert(other.end(), all.begin(), all.begin() + 30);
    other.push_back(1);
    EXPECT_EQ(session.cachedPrefix(other), 128);
    lastRow(session, s, std::span(other).last(1));
    EXPECT_EQ(session.cachedPrefix(other), 192);
  }
}

TEST(PrefixSession, GoesBackIntoAPublishedPage) {
  const SessionModel model = fakeModel(128);
  FakeExecutor *fake = nullptr;
  Session session = make(model, caching(), &fake);
  const Tokens tokens = someTokens(250, 1);
  int32_t s = *session.addSequence(), t = *session.addSequence();
  lastRow(session, s, tokens);
  EXPECT_EQ(attached(session, t, tokens), 192);
  for (int64_t length : {200, 191, 180, 129, 128}) {
    ASSERT_TRUE(session.truncate(s, length));
    EXPECT_EQ(session.length(s), length);
  }
  ASSERT_TRUE(session.truncate(s, 0));
  lastRow(session, s, tokens);
  Tokens other(tokens.begin(), tokens.begin() + 150);
  ASSERT_TRUE(session.truncate(s, 170));
  ASSERT_TRUE(session.truncate(s, 150)); // once more before they are computed again
  // A failing step leaves them to be computed.
  fake->failAt = fake->runs + 1;
  EXPECT_FALSE(session.append(s, std::span(other).first(3)));
  EXPECT_EQ(session.length(s), 150);
  std::vector<Row> rows;
  const Tokens tail = someTokens(40, 2);
  const Append part{s, tail, 40};
  std::vector<int64_t> told;
  ASSERT_TRUE(session.run({&part, 1}, [&](size_t, int64_t token, std::span<const float> logits) {
    told.push_back(token);
    rows.emplace_back(logits.begin(), logits.end());
    return ok();
  }));
  EXPECT_EQ(session.length(s), 190);
  ASSERT_EQ(rows.size(), 40u);
  for (size_t i = 0; i < 40; ++i) {
    other.push_back(tail[i]);
    EXPECT_EQ(told[i], int64_t(i));
    EXPECT_EQ(rows[i], fresh(model, other));
  }
  // The other sequence still has the first text.
  EXPECT_EQ(lastRow(session, t, std::span(tokens).subspan(192)), fresh(model, tokens));
}

} // namespace
