// Which page of which pool holds the keys and values of each 64 positions of each sequence.
//
// A pool without a chunk keeps a sequence's pages until the sequence ends. A pool of chunk C serves
// layers that see only their own chunk: position p sees [p / C * C, p]. There a page goes back to
// the pool when the chunk of the next position begins after the page's last position.
#ifndef MOE_RUNTIME_SESSION_KVCACHE_H
#define MOE_RUNTIME_SESSION_KVCACHE_H

#include "runtime/Status.h"

#include <cstdint>
#include <span>
#include <vector>

namespace moe {

class KvCache {
public:
  static constexpr int32_t pageTokens = 64;

  struct Pool {
    int32_t chunk; // 0: none
    int64_t pages;
  };

  // A sequence may have `context` positions.
  static Result<KvCache> create(int32_t maxSequences, int64_t context, std::span<const Pool> pools);

  // Pages with which reserve never fails, for any sequences of up to `context` positions that grow
  // by at most `maxStep` positions in all between one release of each and the next.
  static int64_t pagesNeeded(int32_t chunk, int64_t context, int32_t maxSequences, int32_t maxStep);

  // Pages that a sequence of `context` positions has in a table.
  static int64_t tableStride(int64_t context) { return (context + pageTokens - 1) / pageTokens; }

  // Makes room for the positions [from, to), where `from` is at most what the sequence has room for
  // already. Error: ResourceExhausted, and nothing is changed.
  Status reserve(int32_t sequence, int64_t from, int64_t to);

  // Gives back the pages that no position from `next` on sees. A caller that may still roll back
  // waits with this until positions are accepted.
  void release(int32_t sequence, int64_t next);

  // Gives back the pages of positions from `length` on. Error: InvalidArgument, and nothing is
  // changed, if the chunk of the position `length` has lost pages to release.
  Status truncate(int32_t sequence, int64_t length);

  // The sequence ends: all its pages go back.
  void clear(int32_t sequence);

  // [maxSequences, tableStride] pages of a pool, -1 where there is none. Stays in place.
  std::span<const int32_t> table(size_t pool) const { return pools[pool].table; }
  int64_t freePages(size_t pool) const { return int64_t(pools[pool].free.size()); }
  int64_t usedPages(size_t pool) const { return pools[pool].pages - freePages(pool); }

private:
  // A sequence holds the pages [begin, end) of its table.
  struct Held {
    int64_t begin = 0, end = 0;
  };
  struct State {
    int32_t chunk;
    int64_t pages;
    std::vector<int32_t> table;
    std::vector<int32_t> free; // a stack: pages used before are used again first
    std::vector<Held> held;    // per sequence

    int64_t chunkStart(int64_t position) const { return chunk ? position / chunk * chunk : 0; }
  };

  void giveBack(State &pool, int32_t sequence, int64_t begin, int64_t end);

  int64_t stride = 0;
  std::vector<State> pools;
};

} // namespace moe

#endif
