// Pools that share a budget, and runs that find no pages in them.
#include "runtime/session/MemoryStatement.h"
#include "runtime/session/TestSessions.h"

#include <gtest/gtest.h>

using namespace moe;

namespace {

TEST(CacheBudget, IsDivided) {
  const SessionModel model = fakeModel(128, 32); // pages of 1 KiB and 4 KiB
  SessionOptions options = caching(4, 1024);
  options.cacheBudget = 200 * 1024;
  Session session = make(model, options);
  // Chunked: what 4 sequences need, and of the other 152 KiB a quarter is 9 pages more.
  EXPECT_EQ(KvCache::pagesNeeded(128, 1024, 4, 32), 12);
  EXPECT_EQ(session.poolUse(1).pages, 12 + 9);
  EXPECT_EQ(session.poolUse(0).pages, 200 - 4 * 21);
  EXPECT_EQ(session.cacheBytes(), 200u * 1024);
  EXPECT_EQ(session.poolChunk(0), 0);
  EXPECT_EQ(session.poolChunk(1), 128);
  // Without a prefix cache nothing is kept, so there is no more than the sequences need.
  options.prefixCache = false;
  Session without = make(model, options);
  EXPECT_EQ(without.poolUse(1).pages, 12);
  EXPECT_EQ(without.poolUse(0).pages, 64);
  options.cacheBudget = 0;
  EXPECT_EQ(make(model, options).cacheBytes(), without.cacheBytes());
}

TEST(CacheBudget, CanBeAShareOfWhatThereIs) {
  SessionModel model = fakeModel(128, 32);
  SessionOptions options = caching(4, 1024);
  options.maxStep = model.maxStep;
  options.cacheShare = 0.5;
  const uint64_t needed = cacheBytes(model, 1024, 4, 32);
  options.memoryLimit = needed; // of the system's memory
  EXPECT_LE(cacheSize(model, options)->bytes, needed / 2);
  EXPECT_GT(cacheSize(model, options)->bytes, needed / 2 - 5 * 1024);
  options.memoryLimit = 100 * needed;
  EXPECT_LE(cacheSize(model, options)->bytes, 2 * needed);
  EXPECT_GT(cacheSize(model, options)->bytes, 2 * needed - 5 * 1024);
  // Of a device's memory what its weights leave.
  options.memoryLimit = 0;
  model.memory = DeviceMemory{"cuda:0 (test)", 20 * needed, 3 * needed, needed, needed};
  EXPECT_LE(cacheSize(model, options)->bytes, needed / 2);
  EXPECT_GT(cacheSize(model, options)->bytes, needed / 2 - 5 * 1024);
  // A budget counts before a share, and a share that holds no sequence is refused.
  options.cacheBudget = needed;
  EXPECT_GT(cacheSize(model, options)->bytes, needed / 2);
  options.cacheBudget = 0;
  options.cacheShare = 1e-6;
  const auto none = cacheSize(model, options);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Code::ResourceExhausted);
}

TEST(CacheBudget, HoldsOneSequenceAndIsKept) {
  std::mt19937 random(1);
  auto below = [&](int64_t n) { return int64_t(random() % uint64_t(n)); };
  int made = 0, refused = 0;
  for (int turn = 0; turn < 2000; ++turn) {
    SessionModel model = fakeModel(int32_t(1 + below(300)), int32_t(1 + below(64)));
    for (CachePool &pool : model.pools)
      pool.pageBytes = 64 * (1 + below(50));
    const int64_t kind = below(8);
    if (kind < 2) // one pool alone
      model.pools[kind].chunk = model.pools[1 - kind].chunk = kind ? 77 : 0;
    SessionOptions options = caching(int32_t(1 + below(20)), 1 + below(2000));
    options.prefixCache = below(2);
    options.maxStep = model.maxStep;
    options.cacheBudget = uint64_t(1 + below(below(2) ? 20000 : 2000000));
    const uint64_t one = cacheBytes(model, options.context, 1, model.maxStep);
    auto size = cacheSize(model, options);
    EXPECT_EQ(bool(size), one <= options.cacheBudget);
    if (!size) {
      ++refused;
      EXPECT_EQ(size.error().code, Code::ResourceExhausted);
      continue;
    }
    ++made;
    uint64_t bytes = 0,
             worst = cacheBytes(model, options.context, options.maxSequences, options.maxStep);
    int64_t global = INT64_MAX;
    for (size_t i = 0; i < 2; ++i) {
      bytes += uint64_t(size->pages[i]) * model.pools[i].pageBytes;
      EXPECT_GE(size->pages[i],
                KvCache::pagesNeeded(model.pools[i].chunk, options.context, 1, options.maxStep));
      if (!model.pools[i].chunk)
        global = std::min(global, size->pages[i]);
      if (worst <= options.cacheBudget && !options.prefixCache && global != INT64_MAX)
        EXPECT_GE(size->pages[i], KvCache::pagesNeeded(model.pools[i].chunk, options.context,
                                                       options.maxSequences, options.maxStep))
            << "there is enough for all";
    }
    EXPECT_EQ(bytes, size->bytes);
    EXPECT_LE(bytes, options.cacheBudget);
    if (!options.prefixCache)
      EXPECT_LE(bytes, worst);
    else if (global != INT64_MAX) // less than a page of each is left over
      EXPECT_GT(bytes + model.pools[0].pageBytes + model.pools[1].pageBytes, options.cacheBudget);
  }
  EXPECT_GT(made, 300);
  EXPECT_GT(refused, 300);
}

TEST(CacheBudget, SaysWhatWouldDo) {
  const SessionModel model = fakeModel(64, 1);
  SessionOptions options = caching(8, 1024);
  options.cacheBudget = 10 * 1024;
  auto session = fakeSession(model, options);
  ASSERT_FALSE(session);
  EXPECT_EQ(session.error().code, Code::ResourceExhausted);
  EXPECT_EQ(session.error().message, "a KV cache of 0.0 MiB cannot hold one sequence of 1024 "
                                     "tokens, which takes 0.0 MiB; a context of 384 would fit");
  options.context = 384;
  EXPECT_TRUE(fakeSession(model, options));
  options.memoryLimit = 9 * 1024;
  EXPECT_EQ(
      fakeSession(model, options).error().message,
      "a KV cache of 0.0 MiB was asked for, 0.0 MiB are available; ask for no more than that");
  options.memoryLimit = 0;
  options.cacheBudget = 100;
  EXPECT_NE(fakeSession(model, options).error().message.find("not even 64"), std::string::npos);
}

TEST(CacheBudget, ARunThatFindsNoPagesChangesNothing) {
  const SessionModel model = fakeModel(128, 32);
  SessionOptions options = caching(3, 640);
  options.prefixCache = false;
  options.cacheBudget = 10 * 1024 + 8 * 4096;
  Session session = make(model, options);
  const Tokens tokens = someTokens(640, 1);
  const std::span<const int32_t> all = tokens;
  ASSERT_EQ(session.poolUse(0).pages, 10);
  ASSERT_EQ(session.poolUse(1).pages, 8);
  int32_t a = *session.addSequence(), b = *session.addSequence(), c = *session.addSequence();
  lastRow(session, a, all.first(250));
  lastRow(session, b, all.first(250));
  lastRow(session, c, all.first(60));
  const PoolUse global = session.poolUse(0), chunked = session.poolUse(1);
  EXPECT_EQ(global.free, 1);
  const auto none = [](size_t, int64_t, std::span<const float>) { return ok(); };
  const auto unchanged = [&](const std::vector<Append> &parts) {
    auto status = session.run(parts, none);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, Code::ResourceExhausted);
    EXPECT_EQ(session.length(a), 250);
    EXPECT_EQ(session.length(b), 250);
    EXPECT_EQ(session.length(c), 60);
    EXPECT_EQ(session.poolUse(0).free, global.free);
    EXPECT_EQ(session.poolUse(1).free, chunked.free);
  };
  // In the second part of a step, and in a later step of a run.
  unchanged({{a, all.subspan(250, 10)}, {b, all.subspan(250, 10)}});
  unchanged({{c, all.subspan(60, 400)}});
  unchanged({{a, all.subspan(250, 30)}, {c, all.subspan(60, 1)}, {b, all.subspan(250, 20)}});
  EXPECT_EQ(session.run(std::vector<Append>{{c, all.subspan(60, 400)}}, none).error().message,
            "out of KV pages: 7 more are needed, 1 of 10 are free; end a sequence, or give the "
            "cache more memory");
  // One of them alone can go on, and what was refused goes on when there is room.
  EXPECT_EQ(lastRow(session, a, all.subspan(250, 10)), fresh(model, all.first(260)));
  session.removeSequence(b);
  EXPECT_EQ(lastRow(session, c, all.subspan(60, 200)), fresh(model, all.first(260)));
}

} // namespace
