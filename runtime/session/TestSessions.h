// Sessions on a FakeExecutor that share prefixes, and what they should give, for tests.
#ifndef MOE_RUNTIME_SESSION_TESTSESSIONS_H
#define MOE_RUNTIME_SESSION_TESTSESSIONS_H

#include "runtime/session/TestExecutor.h"

#include <gtest/gtest.h>
#include <random>

namespace moe {

using Tokens = std::vector<int32_t>;
using Row = std::vector<float>;

inline Session make(SessionModel model, const SessionOptions &options,
                    FakeExecutor **fake = nullptr, int32_t maxRows = 1 << 20) {
  auto session = fakeSession(std::move(model), options, maxRows, fake);
  EXPECT_TRUE(session) << session.error().message;
  return std::move(*session);
}

inline SessionOptions caching(int32_t sequences = 2, int64_t context = 1000) {
  SessionOptions options;
  options.maxSequences = sequences;
  options.context = context;
  options.prefixCache = true;
  return options;
}

inline Tokens someTokens(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  Tokens tokens(count);
  for (int32_t &token : tokens)
    token = int32_t(random() % 50);
  return tokens;
}

inline Row lastRow(Session &session, int32_t sequence, std::span<const int32_t> tokens) {
  auto logits = session.append(sequence, tokens);
  EXPECT_TRUE(logits) << logits.error().message;
  return logits ? Row(logits->begin(), logits->end()) : Row();
}

// Of a session that has seen nothing else.
inline Row fresh(const SessionModel &model, std::span<const int32_t> tokens) {
  Session session = make(model, {});
  return lastRow(session, *session.addSequence(), tokens);
}

} // namespace moe

#endif
