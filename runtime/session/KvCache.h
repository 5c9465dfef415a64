// Which page of which pool holds the keys and values of each 64 positions of each sequence.
//
// A pool without a chunk keeps a sequence's pages until the sequence ends. A pool of chunk C serves
// layers that see only their own chunk: position p sees [p / C * C, p]. There a page goes back to
// the pool when the chunk of the next position begins after the page's last position.
//
// With a prefix cache, pages that are full and whose tokens are accepted are published: nobody
// writes to them again, sequences that begin alike share them, and after their last sequence they
// stay until their place is needed. A sequence writes in pages of its own alone, so none is ever
// copied.
#ifndef MOE_RUNTIME_SESSION_KVCACHE_H
#define MOE_RUNTIME_SESSION_KVCACHE_H

#include "runtime/Status.h"
#include "runtime/session/PrefixCache.h"

namespace moe {

// Pages of a pool: `pages` of them, each either free, cached (published, and no sequence has it: it
// is taken when none is free) or held by sequences.
struct PoolUse {
  int64_t pages = 0, free = 0, cached = 0, held = 0;
};

class KvCache {
public:
  static constexpr int32_t pageTokens = PrefixCache::pageTokens;
  static constexpr int64_t maxPages = INT32_MAX - 2; // of a pool
  using Pool = PagePool;

  // A sequence may have `context` positions. Pages are published where `prefixes` says how and some
  // pool has no chunk.
  static Result<KvCache> create(int32_t maxSequences, int64_t context, std::span<const Pool> pools,
                                const std::optional<PrefixCache::Options> &prefixes = {});

  // Pages with which reserve never fails, for any sequences of up to `context` positions that grow
  // by at most `maxStep` positions in all between one release of each and the next.
  static int64_t pagesNeeded(int32_t chunk, int64_t context, int32_t maxSequences, int32_t maxStep);

  // Pages that a sequence of `context` positions has in a table.
  static int64_t tableStride(int64_t context) { return (context + pageTokens - 1) / pageTokens; }

  // The tokens of an empty sequence are to be shared among sequences of that salt alone.
  void setSalt(int32_t sequence, uint64_t salt) { chains[sequence].salt = salt; }

  // The positions that `attach` would give.
  int64_t cachedPrefix(std::span<const int32_t> tokens, uint64_t salt) const;
  // An empty sequence takes over the pages of the longest published prefix of `tokens`, less than
  // all of them, after which it can go on. Its positions, a multiple of 64; 0: none is there.
  int64_t attach(int32_t sequence, std::span<const int32_t> tokens);

  // Makes room for the positions [from, to), where `from` is at most what the sequence has room for
  // already and in no published page. Error: ResourceExhausted, and nothing is changed.
  Status reserve(int32_t sequence, int64_t from, int64_t to);

  // Sequences that will grow from and to these lengths, in steps of at most `maxStep` positions in
  // all, each with reserve, publish and release: that no reserve will fail. Error:
  // ResourceExhausted, perhaps also where they would just fit.
  struct Growth {
    int32_t sequence;
    int64_t from, to;
  };
  Status checkPages(std::span<const Growth> growths, int32_t maxStep) const;

  // The sequence's first positions hold these tokens, all of them so far, and will not change: full
  // pages of them are published. A page that another sequence has published with the same tokens
  // before it takes the place of this one's own. Comes before `release` lets go of them.
  void publish(int32_t sequence, std::span<const int32_t> tokens);

  // Gives back the pages that no position from `next` on sees. A caller that may still roll back
  // waits with this until positions are accepted.
  void release(int32_t sequence, int64_t next);

  // Gives back the pages of positions from `length` on, and the page in which `length` lies where
  // that is published. The position from which the sequence must be written again: `length`, or the
  // first of that page. Error: InvalidArgument, and nothing is changed, if the chunk of that
  // position has lost pages to release.
  Result<int64_t> truncate(int32_t sequence, int64_t length);

  // The sequence ends: all its pages go back, or are cached if they are published.
  void clear(int32_t sequence);

  // [maxSequences, tableStride] pages of a pool, -1 where there is none. Stays in place.
  std::span<const int32_t> table(size_t pool) const { return pools[pool].table; }
  PoolUse use(size_t pool) const;
  // How often a page is in the table of its pool.
  int32_t references(size_t pool, int32_t page) const { return pools[pool].refs[page]; }
  uint64_t evictions(size_t pool) const { return prefixes ? prefixes->evictions(pool) : 0; }
  // Of the pages of the first pool without a chunk: they decide what can be taken over.
  void setObserver(PageObserver observer) {
    if (prefixes)
      prefixes->setObserver(std::move(observer));
  }

private:
  // A sequence holds the pages [begin, end) of its table.
  struct Held {
    int64_t begin = 0, end = 0;
  };
  // The published pages of a sequence: the first `pages` of it, up to `node`.
  struct Chain {
    uint64_t salt = 0;
    int64_t pages = 0;
    int32_t node = PrefixCache::none;
  };
  struct State {
    int32_t chunk;
    int64_t pages;
    std::vector<int32_t> table;
    std::vector<int32_t> free; // a stack: pages used before are used again first
    std::vector<int32_t> refs; // per page
    std::vector<Held> held;    // per sequence

    int64_t chunkStart(int64_t position) const { return chunk ? position / chunk * chunk : 0; }
  };

  int32_t *row(size_t pool, int32_t sequence) {
    return pools[pool].table.data() + sequence * stride;
  }
  int64_t missing(size_t pool, const Growth &growth) const;
  Status checkFree(size_t pool, int64_t pages) const;
  int32_t take(size_t pool);
  void hold(size_t pool, int32_t page);
  void drop(size_t pool, int32_t page, bool closed);
  void giveBack(size_t pool, int32_t sequence, int64_t begin, int64_t end, bool closed);
  void share(size_t pool, int32_t &own, int32_t node);
  bool writable(int32_t sequence, int64_t page) const;

  int64_t stride = 0;
  std::vector<State> pools;
  std::vector<Chain> chains; // per sequence
  std::optional<PrefixCache> prefixes;
};

} // namespace moe

#endif
