// Free lists and tables. All memory is allocated by create.
#include "runtime/session/KvCache.h"

#include <algorithm>
#include <numeric>

namespace moe {
namespace {

int64_t pagesOf(int64_t positions) { return KvCache::tableStride(positions); }

} // namespace

Result<KvCache> KvCache::create(int32_t maxSequences, int64_t context,
                                std::span<const Pool> pools) {
  if (maxSequences < 1 || context < 1)
    return Error{Code::InvalidArgument, "a KV cache needs at least one sequence and position"};
  KvCache cache;
  cache.stride = tableStride(context);
  for (const Pool &pool : pools) {
    if (pool.pages < 0 || pool.pages > INT32_MAX || cache.stride > INT32_MAX)
      return Error{Code::ResourceExhausted, "a KV cache of " + std::to_string(pool.pages) +
                                                " pages is more than tables can name"};
    State state{pool.chunk, pool.pages, {}, {}, {}};
    state.table.assign(size_t(maxSequences) * cache.stride, -1);
    state.free.resize(pool.pages);
    std::iota(state.free.rbegin(), state.free.rend(), 0);
    state.held.resize(maxSequences);
    cache.pools.push_back(std::move(state));
  }
  return cache;
}

int64_t KvCache::pagesNeeded(int32_t chunk, int64_t context, int32_t maxSequences,
                             int32_t maxStep) {
  int64_t n = maxSequences, all = n * pagesOf(context);
  if (!chunk)
    return all;
  // A chunk begins at most this far into a page.
  int64_t offset = pageTokens - std::gcd(chunk, pageTokens);
  // A sequence that appends t positions holds those and up to chunk - 1 before them. With t = 1 the
  // last page has room for `room` more; the token after those costs a page, then each 64th does.
  int64_t pagesOfOne = pagesOf(offset + chunk);
  int64_t room = pagesOfOne * pageTokens - (offset + chunk);
  int64_t toNext = room + 2, left = maxStep - n * toNext;
  int64_t beyond = left < 0 ? maxStep / toNext : n + left / pageTokens;
  return std::min(all, n * pagesOfOne + beyond);
}

void KvCache::giveBack(State &pool, int32_t sequence, int64_t begin, int64_t end) {
  int32_t *row = pool.table.data() + sequence * stride;
  for (int64_t page = begin; page < end; ++page) {
    pool.free.push_back(row[page]);
    row[page] = -1;
  }
}

Status KvCache::reserve(int32_t sequence, int64_t from, int64_t to) {
  if (pagesOf(to) > stride)
    return Error{Code::ResourceExhausted, "position " + std::to_string(to - 1) +
                                              " is beyond the context of " +
                                              std::to_string(stride * pageTokens)};
  for (const State &pool : pools) {
    const Held &held = pool.held[sequence];
    assert(from == pool.chunkStart(from) || from <= held.end * pageTokens);
    int64_t missing = pagesOf(to) - std::max(held.end, pool.chunkStart(from) / pageTokens);
    if (missing > int64_t(pool.free.size()))
      return Error{Code::ResourceExhausted,
                   "out of KV pages: " + std::to_string(missing) + " more are needed, " +
                       std::to_string(pool.free.size()) + " of " + std::to_string(pool.pages) +
                       " are free; end a sequence, or ask for a larger context"};
  }
  for (State &pool : pools) {
    Held &held = pool.held[sequence];
    if (held.begin == held.end)
      held.begin = held.end = std::max(held.end, pool.chunkStart(from) / pageTokens);
    int32_t *row = pool.table.data() + sequence * stride;
    for (; held.end < pagesOf(to); ++held.end) {
      row[held.end] = pool.free.back();
      pool.free.pop_back();
    }
  }
  return ok();
}

void KvCache::release(int32_t sequence, int64_t next) {
  for (State &pool : pools) {
    Held &held = pool.held[sequence];
    int64_t first = std::min(pool.chunkStart(next) / pageTokens, held.end);
    if (first <= held.begin)
      continue;
    giveBack(pool, sequence, held.begin, first);
    held.begin = first;
  }
}

Status KvCache::truncate(int32_t sequence, int64_t length) {
  for (const State &pool : pools) {
    int64_t start = pool.chunkStart(length);
    if (start < length && pool.held[sequence].begin > start / pageTokens)
      return Error{Code::InvalidArgument, "cannot go back to position " + std::to_string(length) +
                                              ": the cache has dropped positions from " +
                                              std::to_string(start) + " on"};
  }
  for (State &pool : pools) {
    Held &held = pool.held[sequence];
    int64_t keep = pagesOf(length);
    if (held.begin > length / pageTokens) // a chunk starts at `length`, and nothing before is seen
      keep = held.begin;
    if (keep < held.end) {
      giveBack(pool, sequence, std::max(keep, held.begin), held.end);
      held.end = std::max(keep, held.begin);
    }
    if (held.begin == held.end && held.begin > length / pageTokens)
      held.begin = held.end = length / pageTokens;
  }
  return ok();
}

void KvCache::clear(int32_t sequence) {
  for (State &pool : pools) {
    Held &held = pool.held[sequence];
    giveBack(pool, sequence, held.begin, held.end);
    held = {};
  }
}

} // namespace moe
