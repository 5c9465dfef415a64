// Pages that sequences share and leave behind, against what each position of each page should hold,
// under random trees of prompts; and the order in which pages go.
#include "runtime/session/KvCache.h"

#include <gtest/gtest.h>
#include <map>
#include <random>
#include <set>

using namespace moe;

namespace {

using Tokens = std::vector<int32_t>;

KvCache make(int32_t sequences, std::vector<KvCache::Pool> pools, PageHash hash = pageHash) {
  auto cache = KvCache::create(sequences, 2048, pools, PrefixCache::Options{hash, 1});
  EXPECT_TRUE(cache);
  return std::move(*cache);
}

Tokens tokensFrom(int32_t first, int64_t count) {
  Tokens tokens(count);
  for (int64_t i = 0; i < count; ++i)
    tokens[i] = int32_t(first * 10000 + i);
  return tokens;
}

Tokens joined(Tokens head, int64_t count, const Tokens &tail) {
  head.resize(count);
  head.insert(head.end(), tail.begin(), tail.end());
  return head;
}

// A sequence that takes over what there is of the tokens and gets and publishes the rest; what it
// took over. The cache must have the pages.
int64_t grow(KvCache &cache, int32_t sequence, const Tokens &tokens) {
  const int64_t found = cache.attach(sequence, tokens);
  for (int64_t at = found; at < int64_t(tokens.size());) {
    const int64_t to = std::min<int64_t>(at + 64, int64_t(tokens.size()));
    EXPECT_TRUE(cache.reserve(sequence, at, to));
    cache.publish(sequence, std::span(tokens).first(to));
    cache.release(sequence, to);
    at = to;
  }
  return found;
}

// The same, and the sequence ends.
int64_t visit(KvCache &cache, const Tokens &tokens) {
  const int64_t found = grow(cache, 0, tokens);
  cache.clear(0);
  return found;
}

TEST(PrefixCache, TakesOverFullPagesAndLeavesATokenToCompute) {
  KvCache cache = make(2, {{0, 64}, {256, 64}});
  const Tokens tokens = tokensFrom(1, 200);
  EXPECT_EQ(grow(cache, 0, tokens), 0);
  EXPECT_EQ(cache.cachedPrefix(tokens, 0), 192);
  EXPECT_EQ(cache.cachedPrefix(std::span(tokens).first(193), 0), 192);
  EXPECT_EQ(cache.cachedPrefix(std::span(tokens).first(192), 0), 128);
  EXPECT_EQ(cache.cachedPrefix(std::span(tokens).first(64), 0), 0);
  EXPECT_EQ(cache.cachedPrefix({}, 0), 0);
  EXPECT_EQ(cache.cachedPrefix(joined(tokens, 100, tokensFrom(2, 200)), 0), 64);
  EXPECT_EQ(cache.cachedPrefix(tokensFrom(2, 200), 0), 0);
  // While its first sequence goes on, and after it.
  EXPECT_EQ(cache.attach(1, tokens), 192);
  for (size_t pool : {0, 1})
    for (int64_t page = 0; page < 3; ++page) {
      EXPECT_EQ(cache.table(pool)[32 + page], cache.table(pool)[page]);
      EXPECT_EQ(cache.references(pool, cache.table(pool)[page]), 2);
    }
  EXPECT_EQ(cache.use(0).held, 4);
  cache.clear(0);
  EXPECT_EQ(cache.use(0).held, 3);
  cache.clear(1);
  EXPECT_EQ(cache.use(0).held, 0);
  EXPECT_EQ(cache.use(0).cached, 3);
  EXPECT_EQ(cache.use(0).free, 61);
  EXPECT_EQ(grow(cache, 0, tokens), 192);
}

TEST(PrefixCache, NeedsOnlyTheChunkOfTheNextPosition) {
  KvCache cache = make(1, {{0, 64}, {256, 7}});
  const Tokens tokens = tokensFrom(1, 600);
  EXPECT_EQ(visit(cache, tokens), 0);
  EXPECT_EQ(cache.cachedPrefix(tokens, 0), 576);
  EXPECT_EQ(cache.attach(0, tokens), 576);
  for (int64_t page = 0; page < 9; ++page) {
    EXPECT_GE(cache.table(0)[page], 0);
    EXPECT_EQ(cache.table(1)[page] >= 0, page == 8) << page; // as after release
  }
  cache.clear(0);
  // With its 7 pages the chunked pool has lost three of the closed chunks: the last of each first,
  // so that what is left of it can be used.
  EXPECT_EQ(cache.evictions(1), 3u);
  EXPECT_EQ(cache.cachedPrefix(joined(tokens, 250, {1}), 0), 64);
  EXPECT_EQ(cache.cachedPrefix(joined(tokens, 511, {1}), 0), 448);
}

// At a boundary of chunks the chunked pool needs nothing; within a chunk, all of it.
TEST(PrefixCache, FallsBackToTheLastBoundary) {
  KvCache cache = make(1, {{0, 64}, {256, 5}});
  const Tokens tokens = joined(tokensFrom(1, 448), 448, {1});
  visit(cache, tokens);
  EXPECT_EQ(cache.cachedPrefix(tokens, 0), 448);
  visit(cache, tokensFrom(2, 250)); // pushes out the closed chunk and two pages of the open one
  EXPECT_EQ(cache.cachedPrefix(tokens, 0), 320);
  EXPECT_EQ(cache.cachedPrefix(joined(tokens, 250, {1}), 0), 0);
  visit(cache, tokensFrom(3, 250)); // and its first
  EXPECT_EQ(cache.cachedPrefix(tokens, 0), 256);
  EXPECT_EQ(cache.evictions(0), 0u);
}

TEST(PrefixCache, EvictsTheLongestUnusedLeafFirst) {
  KvCache cache = make(1, {{0, 8}});
  const Tokens a = tokensFrom(1, 200), b = joined(a, 64, tokensFrom(2, 140)),
               c = tokensFrom(3, 140);
  visit(cache, a); // pages a0 a1 a2
  visit(cache, b); // a0 b1 b2
  visit(cache, c); // c0 c1
  EXPECT_EQ(cache.use(0).cached, 7);
  EXPECT_EQ(visit(cache, a), 192);  // now b is the oldest, and not the page that a has too
  visit(cache, tokensFrom(4, 120)); // 1 page free, 1 evicted: b2; 1 cached more
  EXPECT_EQ(cache.evictions(0), 1u);
  EXPECT_EQ(cache.cachedPrefix(b, 0), 128);
  EXPECT_EQ(cache.cachedPrefix(a, 0), 192);
  EXPECT_EQ(cache.cachedPrefix(c, 0), 128);
  visit(cache, tokensFrom(5, 180)); // b1 and c1
  EXPECT_EQ(cache.cachedPrefix(b, 0), 64);
  EXPECT_EQ(cache.cachedPrefix(c, 0), 64);
  EXPECT_EQ(cache.cachedPrefix(a, 0), 192);
}

TEST(PrefixCache, ClosedChunksGoBeforeOpenOnes) {
  KvCache cache = make(1, {{0, 64}, {128, 8}});
  const Tokens open = tokensFrom(1, 100), closed = tokensFrom(2, 300);
  visit(cache, open);
  visit(cache, closed); // leaves 4 pages of closed chunks, later than the one of `open`
  EXPECT_EQ(cache.use(1).cached, 5);
  visit(cache, tokensFrom(3, 270)); // needs more than the 3 that are free
  EXPECT_EQ(cache.evictions(1), 2u);
  EXPECT_EQ(cache.cachedPrefix(open, 0), 64);
  EXPECT_EQ(cache.cachedPrefix(joined(closed, 100, {1}), 0), 0);
  EXPECT_EQ(cache.cachedPrefix(joined(closed, 250, {1}), 0), 192);
}

// A page that several prompts begin with is worth as much in a closed chunk.
TEST(PrefixCache, ClosedChunksThatAreUsedStay) {
  KvCache cache = make(1, {{0, 64}, {128, 8}});
  const Tokens common = tokensFrom(1, 100);
  visit(cache, common);
  for (int32_t other : {2, 3, 4, 5, 6, 7}) {
    EXPECT_EQ(visit(cache, joined(common, 70, tokensFrom(other, 250))), 64) << other;
    EXPECT_EQ(visit(cache, tokensFrom(other + 10, 200)), 0);
  }
  EXPECT_GT(cache.evictions(1), 10u);
}

TEST(PrefixCache, APageWithoutItsGlobalOneGoes) {
  KvCache cache = make(1, {{0, 4}, {512, 64}});
  visit(cache, tokensFrom(1, 256));
  EXPECT_EQ(cache.use(1).cached, 4);
  visit(cache, tokensFrom(2, 100));
  EXPECT_EQ(cache.use(0).cached, 3); // the second page of the other is free again
  EXPECT_EQ(cache.use(1).cached, 3);
  EXPECT_EQ(cache.evictions(0), 2u);
  EXPECT_EQ(cache.evictions(1), 2u);
}

TEST(PrefixCache, SaltsAreSeparate) {
  KvCache cache = make(2, {{0, 64}, {128, 64}});
  const Tokens tokens = tokensFrom(1, 200);
  cache.setSalt(0, 7);
  EXPECT_EQ(grow(cache, 0, tokens), 0);
  EXPECT_EQ(cache.cachedPrefix(tokens, 7), 192);
  EXPECT_EQ(cache.cachedPrefix(tokens, 0), 0);
  EXPECT_EQ(cache.attach(1, tokens), 0);
  cache.clear(1);
  cache.setSalt(1, 7);
  EXPECT_EQ(cache.attach(1, tokens), 192);
}

TEST(PrefixCache, OneOfTwoEqualPagesIsKept) {
  KvCache cache = make(2, {{0, 64}, {256, 64}});
  const Tokens tokens = tokensFrom(1, 130);
  for (int32_t sequence : {0, 1})
    ASSERT_TRUE(cache.reserve(sequence, 0, 130));
  EXPECT_EQ(cache.use(0).held, 6);
  for (int32_t sequence : {0, 1})
    cache.publish(sequence, tokens);
  for (size_t pool : {0, 1}) {
    EXPECT_EQ(cache.use(pool).held, 4);
    EXPECT_EQ(cache.table(pool)[0], cache.table(pool)[32]);
    EXPECT_EQ(cache.table(pool)[1], cache.table(pool)[33]);
    EXPECT_NE(cache.table(pool)[2], cache.table(pool)[34]);
  }
}

TEST(PrefixCache, GoesBackToBeforeAPublishedPage) {
  KvCache cache = make(1, {{0, 64}, {256, 64}});
  const Tokens tokens = tokensFrom(1, 230);
  grow(cache, 0, tokens);
  EXPECT_EQ(*cache.truncate(0, 200), 200); // in the open page
  EXPECT_EQ(*cache.truncate(0, 192), 192);
  const int32_t published = cache.table(0)[1];
  EXPECT_EQ(*cache.truncate(0, 100), 64);
  EXPECT_EQ(cache.use(0).held, 1);
  EXPECT_EQ(cache.use(0).cached, 2);
  ASSERT_TRUE(cache.reserve(0, 64, 101));
  EXPECT_NE(cache.table(0)[1], published);
  EXPECT_EQ(cache.cachedPrefix(tokens, 0), 192); // they are there for others
  EXPECT_EQ(*cache.truncate(0, 100), 100);       // the new page is its own
}

TEST(PrefixCache, NothingWithoutAPoolOfAllPositions) {
  KvCache cache = make(1, {{128, 16}});
  EXPECT_EQ(visit(cache, tokensFrom(1, 100)), 0);
  EXPECT_EQ(visit(cache, tokensFrom(1, 100)), 0);
  EXPECT_EQ(cache.use(0).cached, 0);
  EXPECT_EQ(cache.use(0).free, 16);
}

TEST(PrefixCache, TellsWhatComesAndGoes) {
  KvCache cache = make(1, {{128, 64}, {0, 4}}); // the pool without a chunk need not be the first
  std::map<uint64_t, Tokens> there;             // by hash
  std::map<uint64_t, std::optional<uint64_t>> parents;
  cache.setObserver([&](const PageEvent &event) {
    const Tokens tokens(event.tokens.begin(), event.tokens.end());
    EXPECT_EQ(tokens.size(), 64u);
    if (event.stored) {
      EXPECT_TRUE(there.emplace(event.hash, tokens).second);
      parents[event.hash] = event.parent;
      EXPECT_TRUE(!event.parent || there.count(*event.parent));
    } else {
      EXPECT_EQ(there[event.hash], tokens);
      EXPECT_EQ(parents[event.hash], event.parent);
      there.erase(event.hash);
    }
  });
  const Tokens a = tokensFrom(1, 200), b = tokensFrom(2, 100);
  visit(cache, a);
  EXPECT_EQ(there.size(), 3u);
  std::set<Tokens> seen;
  for (const auto &[hash, tokens] : there)
    seen.insert(tokens);
  for (int64_t page : {0, 1, 2})
    EXPECT_TRUE(seen.count(Tokens(a.begin() + page * 64, a.begin() + page * 64 + 64)));
  visit(cache, a);
  EXPECT_EQ(there.size(), 3u);
  visit(cache, b); // takes the free page and a's last
  EXPECT_EQ(there.size(), 3u);
}

TEST(PrefixCache, HashesDifferInEachToken) {
  Tokens tokens = tokensFrom(1, 64);
  std::set<uint64_t> hashes{pageHash(1, 2, tokens), pageHash(2, 1, tokens), pageHash(1, 3, tokens),
                            pageHash(2, 2, tokens)};
  EXPECT_EQ(hashes.size(), 4u);
  for (int32_t &token : tokens) {
    ++token;
    EXPECT_TRUE(hashes.insert(pageHash(1, 2, tokens)).second);
  }
}

// What every position of every page should hold, known from what was written where.
class Contents {
public:
  Contents(KvCache &cache, std::vector<KvCache::Pool> pools, int64_t stride)
      : cache(cache), pools(pools), stride(stride) {
    for (const auto &pool : pools) {
      cells.emplace_back(size_t(pool.pages) * 64, 0);
      readOnly.emplace_back(size_t(pool.pages), false);
    }
  }
  // Per position a value that stands for all of the prefix that ends there.
  static std::vector<uint64_t> valuesOf(const Tokens &tokens, int64_t length, uint64_t salt) {
    std::vector<uint64_t> values(length);
    uint64_t value = salt + 1;
    for (int64_t i = 0; i < length; ++i)
      values[i] = value = (value ^ uint64_t(tokens[i] + 1)) * 0x9e3779b97f4a7c15;
    return values;
  }
  int32_t page(size_t pool, int32_t sequence, int64_t position) const {
    return cache.table(pool)[sequence * stride + position / 64];
  }
  // Reserves and writes. Pages that it gets are no longer published.
  bool write(int32_t sequence, const Tokens &tokens, int64_t from, int64_t to, uint64_t salt) {
    std::vector<int32_t> open; // the pages in which it goes on
    for (size_t pool = 0; pool < pools.size(); ++pool)
      open.push_back(page(pool, sequence, from));
    if (!cache.reserve(sequence, from, to))
      return false;
    const std::vector<uint64_t> values = valuesOf(tokens, to, salt);
    for (size_t pool = 0; pool < pools.size(); ++pool)
      for (int64_t p = from; p < to; ++p) {
        const int32_t at = page(pool, sequence, p);
        EXPECT_GE(at, 0);
        if (at != open[pool] && (p % 64 == 0 || p == from))
          readOnly[pool][at] = false;
        EXPECT_FALSE(readOnly[pool][at]) << "a published page is written to";
        EXPECT_EQ(cache.references(pool, at), 1) << "a shared page is written to";
        cells[pool][at * 64 + p % 64] = values[p];
      }
    return true;
  }
  // After publish of `length` tokens.
  void published(int32_t sequence, int64_t length) {
    for (size_t pool = 0; pool < pools.size(); ++pool)
      for (int64_t p = 0; p + 64 <= length; p += 64)
        if (const int32_t at = page(pool, sequence, p); at >= 0)
          readOnly[pool][at] = true;
  }
  // All that the position `next` sees is there.
  void check(int32_t sequence, const Tokens &tokens, int64_t next, uint64_t salt) const {
    const std::vector<uint64_t> values = valuesOf(tokens, next, salt);
    for (size_t pool = 0; pool < pools.size(); ++pool) {
      const int32_t chunk = pools[pool].chunk;
      for (int64_t p = chunk ? next / chunk * chunk : 0; p < next; ++p) {
        const int32_t at = page(pool, sequence, p);
        ASSERT_GE(at, 0) << "position " << p;
        ASSERT_EQ(cells[pool][at * 64 + p % 64], values[p]) << "position " << p;
      }
    }
  }
  void checkCounts() const {
    for (size_t pool = 0; pool < pools.size(); ++pool) {
      std::vector<int32_t> refs(pools[pool].pages, 0);
      for (int32_t page : cache.table(pool))
        if (page >= 0)
          ++refs[page];
      int64_t held = 0;
      for (int32_t page = 0; page < pools[pool].pages; ++page) {
        EXPECT_EQ(cache.references(pool, page), refs[page]);
        held += refs[page] > 0;
      }
      const PoolUse use = cache.use(pool);
      EXPECT_EQ(use.held, held);
      EXPECT_GE(use.cached, 0);
      EXPECT_EQ(use.free + use.cached + use.held, pools[pool].pages);
    }
  }

private:
  KvCache &cache;
  std::vector<KvCache::Pool> pools;
  int64_t stride;
  std::vector<std::vector<uint64_t>> cells;
  std::vector<std::vector<char>> readOnly;
};

uint64_t sameHash(uint64_t, uint64_t, std::span<const int32_t>) { return 5; }
uint64_t weakHash(uint64_t parent, uint64_t salt, std::span<const int32_t> tokens) {
  return uint64_t(tokens[0]) & 1;
}

// Prompts that begin as others did, cut round multiples of 64 and of the chunk; sequences that
// grow, go back, and end; pools so small that pages are evicted and sequences put off.
TEST(PrefixCache, HoldsWhatItSays) {
  uint64_t hits = 0, evictions = 0, refusals = 0, backs = 0;
  for (uint32_t seed = 0; seed < 90; ++seed) {
    std::mt19937 random(seed);
    auto below = [&](int64_t n) { return int64_t(random() % uint64_t(n)); };
    const int32_t chunks[] = {8, 64, 96, 128, 192, 256};
    const int32_t chunk = chunks[below(6)], sequences = 1 + int32_t(below(4));
    const int64_t context = 1024, stride = 16, maxStep = 1 + below(200);
    std::vector<KvCache::Pool> pools{{0, 17 + below(40)}};
    if (seed % 3) // mostly two, at times in the other order
      pools.insert(pools.begin() + below(2),
                   {chunk, KvCache::pagesNeeded(chunk, context, 1, int32_t(maxStep)) + below(9)});
    const PageHash hash = seed % 4 == 0 ? sameHash : seed % 4 == 1 ? weakHash : pageHash;
    auto made = KvCache::create(sequences, context, pools, PrefixCache::Options{hash, seed});
    ASSERT_TRUE(made);
    KvCache &cache = *made;
    Contents contents(cache, pools, stride);

    struct Running {
      bool active = false;
      Tokens tokens;
      int64_t length = 0;
      uint64_t salt = 0;
    };
    std::vector<Running> running(sequences);
    std::vector<Tokens> prompts{{}};
    for (int turn = 0; turn < 250; ++turn) {
      const int32_t s = int32_t(below(sequences));
      Running &r = running[s];
      SCOPED_TRACE("seed " + std::to_string(seed) + " turn " + std::to_string(turn));
      if (!r.active) {
        r = {true, prompts[below(int64_t(prompts.size()))], 0, uint64_t(below(5) == 0)};
        const int64_t unit = below(2) ? 64 : chunk;
        const int64_t cut = below(context / unit) * unit + below(5) - 2;
        r.tokens.resize(std::clamp<int64_t>(cut, 0, int64_t(r.tokens.size())));
        for (int64_t more = 1 + below(300); more > 0 && int64_t(r.tokens.size()) < context; --more)
          r.tokens.push_back(int32_t(below(3)));
        prompts.push_back(r.tokens);
        cache.setSalt(s, r.salt);
        const int64_t expected = cache.cachedPrefix(r.tokens, r.salt);
        r.length = cache.attach(s, r.tokens);
        EXPECT_EQ(r.length, expected);
        EXPECT_EQ(r.length % 64, 0);
        EXPECT_LT(r.length, int64_t(r.tokens.size()));
        hits += r.length > 0;
        contents.check(s, r.tokens, r.length, r.salt);
      } else if (below(8) == 0 || r.length == int64_t(r.tokens.size())) {
        if (below(2)) { // the answer goes on
          for (int64_t more = below(80); more > 0 && int64_t(r.tokens.size()) < context; --more)
            r.tokens.push_back(int32_t(below(3)));
          prompts.push_back(r.tokens);
        } else {
          cache.clear(s);
          r = {};
        }
      } else if (below(10) == 0) {
        const int64_t to = below(r.length + 1);
        if (auto from = cache.truncate(s, to)) {
          EXPECT_LE(*from, to);
          EXPECT_GT(*from + 64, to);
          r.length = *from;
          ++backs;
          contents.check(s, r.tokens, r.length, r.salt);
          for (size_t i = size_t(to); i < r.tokens.size(); ++i) // goes on in another way
            r.tokens[i] = int32_t(below(3));
        }
      } else {
        const int64_t to =
            std::min<int64_t>(r.length + 1 + below(maxStep), int64_t(r.tokens.size()));
        std::vector<PoolUse> uses;
        for (size_t pool = 0; pool < pools.size(); ++pool)
          uses.push_back(cache.use(pool));
        if (contents.write(s, r.tokens, r.length, to, r.salt)) {
          int64_t accepted = to;
          if (below(4) == 0) { // tokens that are not accepted are never published
            accepted = r.length + below(to - r.length + 1);
            EXPECT_EQ(*cache.truncate(s, accepted), accepted);
          }
          r.length = accepted;
          cache.publish(s, std::span(r.tokens).first(accepted));
          contents.published(s, accepted);
          contents.check(s, r.tokens, accepted, r.salt);
          cache.release(s, accepted);
          contents.check(s, r.tokens, accepted, r.salt);
        } else { // nothing changed; as an engine does, the sequence is put off
          ++refusals;
          for (size_t pool = 0; pool < pools.size(); ++pool) {
            EXPECT_EQ(cache.use(pool).held, uses[pool].held);
            EXPECT_EQ(cache.use(pool).cached, uses[pool].cached);
          }
          cache.clear(s);
          r = {};
        }
      }
      contents.checkCounts();
    }
    for (int32_t s = 0; s < sequences; ++s) {
      if (running[s].active)
        contents.check(s, running[s].tokens, running[s].length, running[s].salt);
      cache.clear(s);
    }
    for (size_t pool = 0; pool < pools.size(); ++pool) {
      EXPECT_EQ(cache.use(pool).held, 0);
      evictions += cache.evictions(pool);
    }
  }
  EXPECT_GT(hits, 500u);
  EXPECT_GT(evictions, 1000u);
  EXPECT_GT(refusals, 20u);
  EXPECT_GT(backs, 200u);
}

// Without evictions all that was published is found.
TEST(PrefixCache, FindsTheLongestPrefix) {
  std::mt19937 random(3);
  auto below = [&](int64_t n) { return int64_t(random() % uint64_t(n)); };
  KvCache cache = make(1, {{0, 4000}, {128, 4000}});
  std::set<Tokens> published;
  std::vector<Tokens> prompts{{}};
  for (int turn = 0; turn < 200; ++turn) {
    Tokens tokens = prompts[below(int64_t(prompts.size()))];
    tokens.resize(std::clamp<int64_t>(below(16) * 64 + below(3) - 1, 0, int64_t(tokens.size())));
    for (int64_t more = 1 + below(200); more > 0; --more)
      tokens.push_back(int32_t(below(2)));
    size_t expected = 0;
    while (expected + 64 < tokens.size() &&
           published.count(Tokens(tokens.begin(), tokens.begin() + expected + 64)))
      expected += 64;
    EXPECT_EQ(visit(cache, tokens), int64_t(expected));
    for (size_t end = 64; end <= tokens.size(); end += 64)
      published.insert(Tokens(tokens.begin(), tokens.begin() + end));
    prompts.push_back(tokens);
  }
  EXPECT_EQ(cache.use(0).cached, int64_t(published.size()));
  EXPECT_EQ(cache.evictions(0) + cache.evictions(1), 0u);
}

} // namespace
