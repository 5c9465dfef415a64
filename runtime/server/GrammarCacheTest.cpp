#include "runtime/server/GrammarCache.h"

#include <gtest/gtest.h>

namespace moe::server {
namespace {

using Clock = GrammarCache::Clock;

struct Nothing : CompiledGrammar {
  std::unique_ptr<GrammarMatcher> start() const override { return nullptr; }
};

std::string found(GrammarCache &cache, const std::string &key, Clock::time_point now = {}) {
  const auto outcome = cache.find(key, now);
  return !outcome ? "nothing" : *outcome ? "grammar" : outcome->error().message;
}

TEST(GrammarCache, KeepsWhatWasAskedForLast) {
  GrammarCache cache(10'000, 10'000, std::chrono::seconds(60));
  const auto grammar = std::make_shared<Nothing>();
  for (const char *key : {"a", "b", "c"})
    cache.keep(key, grammar, 2500);
  EXPECT_EQ(found(cache, "a"), "grammar");
  cache.keep("d", grammar, 2500); // in the place of b
  EXPECT_EQ(found(cache, "b"), "nothing");
  EXPECT_EQ(found(cache, "a"), "grammar");
  EXPECT_EQ(found(cache, "c"), "grammar");
  EXPECT_EQ(found(cache, "d"), "grammar");
  cache.keep("e", grammar, 20'000); // has no room
  EXPECT_EQ(found(cache, "e"), "nothing");
  EXPECT_EQ(found(cache, "a"), "grammar");
  cache.keep("a", grammar, 100); // once more
  EXPECT_EQ(found(cache, "a"), "grammar");
}

TEST(GrammarCache, RefusalsDoNotDisplaceGrammars) {
  GrammarCache cache(10'000, 10'000, std::chrono::seconds(60));
  cache.keep("good", std::make_shared<Nothing>(), 5000);
  for (int i = 0; i < 1000; ++i)
    cache.refuse("bad" + std::to_string(i), {Code::InvalidArgument, "is wrong"});
  EXPECT_EQ(found(cache, "good"), "grammar");
  EXPECT_EQ(found(cache, "bad999"), "is wrong");
  EXPECT_EQ(found(cache, "bad0"), "nothing"); // the room is bounded
  cache.refuse("huge", {Code::InvalidArgument, std::string(20'000, 'x')});
  EXPECT_EQ(found(cache, "huge"), "nothing");
}

TEST(GrammarCache, WhatTookTooLongIsTriedAgainLater) {
  GrammarCache cache(10'000, 10'000, std::chrono::seconds(60));
  const Clock::time_point start{};
  cache.refuse("slow", {Code::ResourceExhausted, "takes too long"}, start);
  cache.refuse("wrong", {Code::InvalidArgument, "is wrong"}, start);
  EXPECT_EQ(found(cache, "slow", start + std::chrono::seconds(59)), "takes too long");
  EXPECT_EQ(found(cache, "slow", start + std::chrono::seconds(60)), "nothing");
  EXPECT_EQ(found(cache, "wrong", start + std::chrono::hours(1000)), "is wrong");
}

} // namespace
} // namespace moe::server
