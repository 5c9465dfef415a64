// The cache against a naive model that keeps sets of pages, under random requests.
#include "runtime/session/KvCache.h"

#include <gtest/gtest.h>
#include <map>
#include <random>
#include <set>

using namespace moe;

namespace {

KvCache make(int32_t sequences, int64_t context, std::vector<KvCache::Pool> pools) {
  auto cache = KvCache::create(sequences, context, pools);
  EXPECT_TRUE(cache);
  return std::move(*cache);
}

// Table indices that have a page.
std::set<int64_t> present(const KvCache &cache, size_t pool, int32_t sequence, int64_t stride) {
  std::set<int64_t> pages;
  for (int64_t i = 0; i < stride; ++i)
    if (cache.table(pool)[sequence * stride + i] >= 0)
      pages.insert(i);
  return pages;
}

TEST(KvCache, GlobalPagesStayAndChunkedPagesGo) {
  KvCache cache = make(1, 1024, {{0, 16}, {256, 16}});
  ASSERT_TRUE(cache.reserve(0, 0, 300));
  EXPECT_EQ(cache.use(0).held, 5);
  EXPECT_EQ(cache.use(1).held, 5);
  cache.release(0, 255);
  EXPECT_EQ(cache.use(1).held, 5);
  cache.release(0, 256);
  EXPECT_EQ(cache.use(1).held, 1);
  EXPECT_EQ(cache.use(0).held, 5);
  EXPECT_EQ(cache.table(1)[3], -1);
  EXPECT_GE(cache.table(1)[4], 0);
  cache.clear(0);
  EXPECT_EQ(cache.use(0).free, 16);
  EXPECT_EQ(cache.use(1).free, 16);
}

TEST(KvCache, ReserveThatFailsChangesNothing) {
  KvCache cache = make(2, 1024, {{0, 8}, {64, 3}});
  ASSERT_TRUE(cache.reserve(0, 0, 64));
  auto status = cache.reserve(1, 0, 256); // the chunked pool has too few
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, Code::ResourceExhausted);
  EXPECT_EQ(cache.use(0).held, 1);
  EXPECT_EQ(cache.use(1).held, 1);
  EXPECT_FALSE(cache.reserve(0, 64, 1025));
}

TEST(KvCache, GoesBackWithinAChunkAlone) {
  KvCache cache = make(1, 1024, {{128, 16}});
  ASSERT_TRUE(cache.reserve(0, 0, 130));
  // Not yet accepted: nothing was released, so any way back is open.
  ASSERT_TRUE(cache.truncate(0, 126));
  EXPECT_EQ(cache.use(0).held, 2);
  ASSERT_TRUE(cache.reserve(0, 126, 200));
  cache.release(0, 200);
  EXPECT_FALSE(cache.truncate(0, 127));
  EXPECT_TRUE(cache.truncate(0, 128)); // the first of a chunk sees nothing before it
  EXPECT_EQ(cache.use(0).held, 0);
  ASSERT_TRUE(cache.reserve(0, 128, 129));
  EXPECT_GE(cache.table(0)[2], 0);
}

TEST(KvCache, NoPoolsIsFine) {
  KvCache cache = make(1, 64, {});
  EXPECT_TRUE(cache.reserve(0, 0, 64));
  cache.release(0, 64);
  cache.clear(0);
}

TEST(KvCache, PagesNeededByHand) {
  EXPECT_EQ(KvCache::pagesNeeded(0, 1000, 3, 128), 3 * 16);
  EXPECT_EQ(KvCache::pagesNeeded(8192, 4096, 1, 512), 64); // the context is less than a chunk
  EXPECT_EQ(KvCache::pagesNeeded(8192, 1 << 20, 1, 1), 128);
  EXPECT_EQ(KvCache::pagesNeeded(8192, 1 << 20, 1, 2), 129);
  EXPECT_EQ(KvCache::pagesNeeded(8192, 1 << 20, 1, 65), 129);
  EXPECT_EQ(KvCache::pagesNeeded(8192, 1 << 20, 1, 66), 130);
  EXPECT_EQ(KvCache::pagesNeeded(8, 1 << 20, 1, 1), 1);
  EXPECT_EQ(KvCache::pagesNeeded(24, 1 << 20, 1, 1), 2); // positions 48 to 71
}

// The bound is reached, so it is exact: the worst start, then the longest step.
TEST(KvCache, PagesNeededIsEnoughAndNotMore) {
  for (int32_t chunk : {8, 24, 64, 96, 128, 200})
    for (int32_t maxStep : {1, 2, 3, 64, 65, 66, 130}) {
      int64_t most = 0;
      for (int64_t from = 0; from < 64 * chunk; ++from) {
        int64_t to = from + maxStep, first = from / chunk * chunk / 64;
        most = std::max(most, (to + 63) / 64 - first);
      }
      EXPECT_EQ(KvCache::pagesNeeded(chunk, 1 << 20, 1, maxStep), most)
          << "chunk " << chunk << " step " << maxStep;
    }
}

// Random growth, roll-back and leaving of several sequences, held to what the rules say.
TEST(KvCache, AgreesWithANaiveModel) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    auto below = [&](int64_t n) { return int64_t(random() % uint64_t(n)); };
    const int32_t sequences = 1 + int32_t(below(4)), maxStep = 1 + int32_t(below(150));
    const int64_t context = 200 + below(1500), stride = KvCache::tableStride(context);
    const int32_t chunks[] = {8, 24, 64, 96, 128, 192, 256};
    const int32_t chunk = chunks[below(7)];
    int64_t chunkedPages = KvCache::pagesNeeded(chunk, context, sequences, maxStep);
    KvCache cache =
        make(sequences, context,
             {{0, KvCache::pagesNeeded(0, context, sequences, maxStep)}, {chunk, chunkedPages}});
    std::vector<int64_t> length(sequences, 0), released(sequences, 0);
    for (int turn = 0; turn < 400; ++turn) {
      // One step: some sequences grow, by maxStep in all.
      int64_t left = maxStep;
      std::map<int32_t, int64_t> grown;
      for (int32_t s = 0; s < sequences && left > 0; ++s) {
        int64_t count = std::min(below(left + 1), context - length[s]);
        if (count == 0)
          continue;
        ASSERT_TRUE(cache.reserve(s, length[s], length[s] + count)) << "seed " << seed;
        grown[s] = count;
        left -= count;
      }
      // Everything that the step sees is there, and no page belongs to two.
      for (size_t pool = 0; pool < 2; ++pool) {
        std::set<int32_t> seen;
        for (int32_t page : cache.table(pool))
          if (page >= 0) {
            EXPECT_TRUE(seen.insert(page).second);
          }
        EXPECT_EQ(int64_t(seen.size()), cache.use(pool).held);
      }
      for (auto [s, count] : grown) {
        int64_t to = length[s] + count;
        auto global = present(cache, 0, s, stride), chunked = present(cache, 1, s, stride);
        for (int64_t page = 0; page < (to + 63) / 64; ++page)
          EXPECT_TRUE(global.count(page));
        for (int64_t page = length[s] / chunk * chunk / 64; page < (to + 63) / 64; ++page)
          EXPECT_TRUE(chunked.count(page));
        length[s] = to;
        int64_t accepted = to;
        if (below(4) == 0) { // roll back before accepting
          accepted = to - below(count + 1);
          ASSERT_TRUE(cache.truncate(s, accepted));
          length[s] = accepted;
        }
        cache.release(s, accepted);
        released[s] = accepted;
        std::set<int64_t> expected;
        for (int64_t page = accepted / chunk * chunk / 64; page < (accepted + 63) / 64; ++page)
          expected.insert(page);
        EXPECT_EQ(present(cache, 1, s, stride), expected) << "seed " << seed;
        EXPECT_EQ(int64_t(present(cache, 0, s, stride).size()), (accepted + 63) / 64);
      }
      int32_t s = int32_t(below(sequences));
      if (below(10) == 0) { // a way back after accepting: possible within the chunk
        int64_t to = below(length[s] + 1);
        bool possible = to == to / chunk * chunk ||
                        to / chunk * chunk / 64 >=
                            std::min(released[s] / chunk * chunk / 64, (length[s] + 63) / 64);
        EXPECT_EQ(bool(cache.truncate(s, to)), possible)
            << "seed " << seed << " from " << length[s] << " to " << to << " chunk " << chunk;
        if (possible)
          length[s] = released[s] = to;
      }
      if (below(20) == 0 || length[s] == context) {
        cache.clear(s);
        length[s] = released[s] = 0;
      }
    }
    for (int32_t s = 0; s < sequences; ++s)
      cache.clear(s);
    EXPECT_EQ(cache.use(0).held, 0);
    EXPECT_EQ(cache.use(1).held, 0);
  }
}

} // namespace
