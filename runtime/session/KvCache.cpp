// Free lists, tables and counts of references. All memory is allocated by create.
#include "runtime/session/KvCache.h"

#include <algorithm>
#include <numeric>

namespace moe {
namespace {

int64_t pagesOf(int64_t positions) { return KvCache::tableStride(positions); }

} // namespace

Result<KvCache> KvCache::create(int32_t maxSequences, int64_t context, std::span<const Pool> pools,
                                const std::optional<PrefixCache::Options> &prefixes) {
  if (maxSequences < 1 || context < 1)
    return Error{Code::InvalidArgument, "a KV cache needs at least one sequence and position"};
  KvCache cache;
  cache.stride = tableStride(context);
  for (const Pool &pool : pools) {
    if (pool.pages < 0 || pool.pages > maxPages || cache.stride > INT32_MAX)
      return Error{Code::ResourceExhausted, "a KV cache of " + std::to_string(pool.pages) +
                                                " pages is more than tables can name"};
    State state{pool.chunk, pool.pages, {}, {}, {}, {}};
    state.table.assign(size_t(maxSequences) * cache.stride, -1);
    state.free.resize(pool.pages);
    std::iota(state.free.rbegin(), state.free.rend(), 0);
    state.refs.assign(pool.pages, 0);
    state.held.resize(maxSequences);
    cache.pools.push_back(std::move(state));
  }
  cache.chains.resize(maxSequences);
  if (prefixes && std::any_of(pools.begin(), pools.end(), [](const Pool &p) { return !p.chunk; }))
    cache.prefixes.emplace(pools, *prefixes);
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

PoolUse KvCache::use(size_t pool) const {
  const int64_t pages = pools[pool].pages, free = int64_t(pools[pool].free.size());
  const int64_t cached = prefixes ? prefixes->cached(pool) : 0;
  return {pages, free, cached, pages - free - cached};
}

// A page that nobody has: free, or evicted.
int32_t KvCache::take(size_t pool) {
  State &state = pools[pool];
  if (state.free.empty()) {
    const std::span<const int32_t> freed = prefixes->evict(pool);
    for (size_t i = 0; i < pools.size(); ++i)
      if (freed[i] != PrefixCache::none)
        pools[i].free.push_back(freed[i]);
  }
  const int32_t page = state.free.back();
  state.free.pop_back();
  state.refs[page] = 1;
  return page;
}

void KvCache::hold(size_t pool, int32_t page) {
  if (pools[pool].refs[page]++ == 0)
    prefixes->use(pool, page);
}

void KvCache::drop(size_t pool, int32_t page, bool closed) {
  State &state = pools[pool];
  assert(state.refs[page] > 0);
  if (--state.refs[page] > 0)
    return;
  if (prefixes && prefixes->published(pool, page))
    prefixes->keep(pool, page, closed);
  else
    state.free.push_back(page);
}

// The last page first: what comes before is of use to more prompts.
void KvCache::giveBack(size_t pool, int32_t sequence, int64_t begin, int64_t end, bool closed) {
  int32_t *pages = row(pool, sequence);
  for (int64_t page = end; page-- > begin;) {
    drop(pool, pages[page], closed);
    pages[page] = -1;
  }
}

int64_t KvCache::cachedPrefix(std::span<const int32_t> tokens, uint64_t salt) const {
  return prefixes ? prefixes->longest(tokens, salt).pages * pageTokens : 0;
}

int64_t KvCache::attach(int32_t sequence, std::span<const int32_t> tokens) {
  if (!prefixes)
    return 0;
  Chain &chain = chains[sequence];
  const PrefixCache::Match match = prefixes->longest(tokens, chain.salt);
  for (size_t pool = 0; pool < pools.size(); ++pool) {
    Held &held = pools[pool].held[sequence];
    assert(held.begin == held.end);
    held = {pools[pool].chunkStart(match.pages * pageTokens) / pageTokens, match.pages};
    int32_t *pages = row(pool, sequence), node = match.node;
    for (int64_t page = held.end; page-- > held.begin; node = prefixes->parent(node)) {
      pages[page] = prefixes->page(pool, node);
      hold(pool, pages[page]);
    }
  }
  chain.pages = match.pages;
  chain.node = match.node;
  return match.pages * pageTokens;
}

void KvCache::publish(int32_t sequence, std::span<const int32_t> tokens) {
  if (!prefixes)
    return;
  Chain &chain = chains[sequence];
  for (; (chain.pages + 1) * pageTokens <= int64_t(tokens.size()); ++chain.pages) {
    const auto ids = tokens.subspan(size_t(chain.pages) * pageTokens, pageTokens);
    int32_t node = prefixes->find(chain.node, chain.salt, ids);
    if (node == PrefixCache::none)
      node = prefixes->insert(chain.node, chain.salt, ids,
                              row(prefixes->trunk(), sequence)[chain.pages]);
    for (size_t pool = 0; pool < pools.size(); ++pool)
      share(pool, row(pool, sequence)[chain.pages], node);
    chain.node = node;
  }
}

// `own`: an entry of a table, whose page holds the tokens of `node`.
void KvCache::share(size_t pool, int32_t &own, int32_t node) {
  const int32_t page = prefixes->page(pool, node);
  if (own < 0 || own == page) // its chunk was closed before it was accepted; or is the node's
    return;
  if (page == PrefixCache::none) {
    prefixes->setPage(pool, node, own);
    return;
  }
  hold(pool, page);
  drop(pool, own, false);
  own = page;
}

bool KvCache::writable(int32_t sequence, int64_t page) const {
  for (size_t i = 0; i < pools.size(); ++i) {
    const int32_t own = pools[i].table[sequence * stride + page];
    if (own >= 0 && (pools[i].refs[own] != 1 || (prefixes && prefixes->published(i, own))))
      return false;
  }
  return true;
}

// The pages that it takes to grow, if none is released.
int64_t KvCache::missing(size_t pool, const Growth &growth) const {
  const State &state = pools[pool];
  return pagesOf(growth.to) -
         std::max(state.held[growth.sequence].end, state.chunkStart(growth.from) / pageTokens);
}

Status KvCache::checkFree(size_t pool, int64_t pages) const {
  const PoolUse has = use(pool);
  if (pages <= has.free + has.cached)
    return ok();
  return Error{Code::ResourceExhausted,
               "out of KV pages: " + std::to_string(pages) + " more are needed, " +
                   std::to_string(has.free + has.cached) + " of " + std::to_string(has.pages) +
                   " are free; end a sequence, or give the cache more memory"};
}

Status KvCache::checkPages(std::span<const Growth> growths, int32_t maxStep) const {
  for (size_t i = 0; i < pools.size(); ++i) {
    const State &pool = pools[i];
    int64_t all = 0, own = 0; // own: that can be given back
    for (const Growth &growth : growths) {
      all += missing(i, growth);
      const Held &held = pool.held[growth.sequence];
      for (int64_t page = held.begin; page < held.end; ++page)
        own += pool.refs[pool.table[growth.sequence * stride + page]] == 1;
    }
    if (pool.chunk) // what they have at most at a time, less what they have
      all = std::min(
          all,
          pagesNeeded(pool.chunk, stride * pageTokens, int32_t(growths.size()), maxStep) - own);
    MOE_TRY(checkFree(i, all));
  }
  return ok();
}

Status KvCache::reserve(int32_t sequence, int64_t from, int64_t to) {
  if (pagesOf(to) > stride)
    return Error{Code::ResourceExhausted, "position " + std::to_string(to - 1) +
                                              " is beyond the context of " +
                                              std::to_string(stride * pageTokens)};
  for (size_t i = 0; i < pools.size(); ++i) {
    assert(from == pools[i].chunkStart(from) || from <= pools[i].held[sequence].end * pageTokens);
    MOE_TRY(checkFree(i, missing(i, {sequence, from, to})));
  }
  for (size_t i = 0; i < pools.size(); ++i) {
    State &pool = pools[i];
    Held &held = pool.held[sequence];
    if (held.begin == held.end)
      held.begin = held.end = std::max(held.end, pool.chunkStart(from) / pageTokens);
    for (; held.end < pagesOf(to); ++held.end)
      row(i, sequence)[held.end] = take(i);
  }
  assert(from == to || writable(sequence, from / pageTokens)); // and those after it are new
  return ok();
}

void KvCache::release(int32_t sequence, int64_t next) {
  for (size_t i = 0; i < pools.size(); ++i) {
    Held &held = pools[i].held[sequence];
    int64_t first = std::min(pools[i].chunkStart(next) / pageTokens, held.end);
    if (first <= held.begin)
      continue;
    giveBack(i, sequence, held.begin, first, true);
    held.begin = first;
  }
}

Result<int64_t> KvCache::truncate(int32_t sequence, int64_t length) {
  Chain &chain = chains[sequence];
  // What is left of a published page cannot be written to, so it is made again.
  const int64_t from =
      length / pageTokens < chain.pages ? length / pageTokens * pageTokens : length;
  for (const State &pool : pools) {
    int64_t start = pool.chunkStart(from);
    if (start < from && pool.held[sequence].begin > start / pageTokens)
      return Error{Code::InvalidArgument, "cannot go back to position " + std::to_string(length) +
                                              ": the cache has dropped positions from " +
                                              std::to_string(start) + " on"};
  }
  for (size_t i = 0; i < pools.size(); ++i) {
    Held &held = pools[i].held[sequence];
    int64_t keep = pagesOf(from);
    if (held.begin > from / pageTokens) // a chunk starts at `from`, and nothing before is seen
      keep = held.begin;
    if (keep < held.end) {
      giveBack(i, sequence, std::max(keep, held.begin), held.end, false);
      held.end = std::max(keep, held.begin);
    }
    if (held.begin == held.end && held.begin > from / pageTokens)
      held.begin = held.end = from / pageTokens;
  }
  for (; chain.pages > from / pageTokens; --chain.pages)
    chain.node = prefixes->parent(chain.node);
  return from;
}

void KvCache::clear(int32_t sequence) {
  for (size_t i = 0; i < pools.size(); ++i) {
    Held &held = pools[i].held[sequence];
    giveBack(i, sequence, held.begin, held.end, false);
    held = {};
  }
  chains[sequence] = {};
}

} // namespace moe
