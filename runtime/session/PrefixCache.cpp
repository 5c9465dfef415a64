// A hash table of chained buckets over the nodes, and per pool two rings of cached pages.
//
// Sequences let go of their last page first, and hold all pages without a chunk before one that
// they hold. So in the ring of a pool without a chunk every page comes after those that follow it
// in chains: its first page is always one that no chain needs.
#include "runtime/session/PrefixCache.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

namespace moe {
namespace {

// The finalizer of MurmurHash3, one to one.
uint64_t mix(uint64_t x) {
  x = (x ^ x >> 33) * 0xff51afd7ed558ccd;
  x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53;
  return x ^ x >> 33;
}

} // namespace

uint64_t pageHash(uint64_t parent, uint64_t salt, std::span<const int32_t> tokens) {
  uint64_t hash = mix(mix(parent) ^ salt);
  for (int32_t token : tokens)
    hash = mix(hash ^ uint32_t(token));
  return hash;
}

PrefixCache::PrefixCache(std::span<const PagePool> sizes, const Options &options)
    : options(options) {
  while (sizes[first].chunk)
    ++first;
  const auto count = size_t(sizes[first].pages);
  nodes.resize(count);
  buckets.assign(std::bit_ceil(std::max<size_t>(count, 1)), none);
  freed.assign(sizes.size(), none);
  for (const PagePool &size : sizes) {
    Pool &pool = pools.emplace_back();
    pool.chunk = size.chunk;
    pool.pages = size.pages;
    pool.nodeOf.assign(size_t(size.pages), none);
    pool.pageOf.assign(count, none);
    pool.reused.assign(size_t(size.pages), false);
    pool.links.resize(size_t(size.pages) + 2);
    for (auto ring = int32_t(size.pages); ring < int32_t(size.pages) + 2; ++ring)
      pool.links[ring] = {ring, ring};
  }
}

uint64_t PrefixCache::hashAfter(int32_t parent, uint64_t salt,
                                std::span<const int32_t> tokens) const {
  return options.hash(parent == none ? options.seed : nodes[parent].hash, salt, tokens);
}

int32_t PrefixCache::find(int32_t parent, uint64_t salt, std::span<const int32_t> tokens) const {
  assert(tokens.size() == pageTokens);
  const uint64_t hash = hashAfter(parent, salt, tokens);
  int32_t at = buckets[hash & (buckets.size() - 1)];
  for (; at != none; at = nodes[at].next) {
    const Node &node = nodes[at];
    if (node.hash == hash && node.parent == parent && node.salt == salt &&
        std::equal(tokens.begin(), tokens.end(), node.tokens.begin()))
      break;
  }
  return at;
}

int32_t PrefixCache::insert(int32_t parent, uint64_t salt, std::span<const int32_t> tokens,
                            int32_t page) {
  Node &node = nodes[page];
  node.hash = hashAfter(parent, salt, tokens);
  node.salt = salt;
  node.parent = parent;
  node.children = 0;
  std::copy(tokens.begin(), tokens.end(), node.tokens.begin());
  int32_t &bucket = buckets[node.hash & (buckets.size() - 1)];
  node.next = bucket;
  bucket = page;
  if (parent != none)
    ++nodes[parent].children;
  setPage(first, page, page);
  tell(true, node);
  return page;
}

void PrefixCache::setPage(size_t pool, int32_t node, int32_t page) {
  assert(pools[pool].pageOf[node] == none && pools[pool].nodeOf[page] == none);
  pools[pool].pageOf[node] = page;
  pools[pool].nodeOf[page] = node;
  pools[pool].reused[page] = false;
}

PrefixCache::Match PrefixCache::longest(std::span<const int32_t> tokens, uint64_t salt) const {
  Match match;
  for (size_t end = pageTokens; end < tokens.size(); end += pageTokens) {
    const int32_t node = find(match.node, salt, tokens.subspan(end - pageTokens, pageTokens));
    if (node == none)
      break;
    match = {node, match.pages + 1};
  }
  // Back to before the last gap, in any pool, of what the next position sees. A gap begins before
  // the chunk of any position between it and the end of the chain, so none of those is left out.
  for (bool whole = false; !whole;) {
    whole = true;
    for (const Pool &pool : pools) {
      const int64_t next = match.pages * pageTokens;
      const int64_t first = pool.chunk ? next / pool.chunk * pool.chunk / pageTokens : match.pages;
      for (Match at = match; at.pages > first; at = {parent(at.node), at.pages - 1})
        if (pool.pageOf[at.node] == none) {
          match = {parent(at.node), at.pages - 1};
          whole = false;
          break;
        }
    }
  }
  return match;
}

void PrefixCache::keep(size_t index, int32_t page, bool closed) {
  Pool &pool = pools[index];
  const bool seldom = closed && !pool.reused[page];
  const auto ring = int32_t(pool.pages) + (seldom ? 0 : 1), last = pool.links[ring].before;
  pool.links[page] = {last, ring};
  pool.links[last].after = pool.links[ring].before = page;
  ++pool.cached;
}

void PrefixCache::unlink(Pool &pool, int32_t page) {
  Link &link = pool.links[page];
  pool.links[link.before].after = link.after;
  pool.links[link.after].before = link.before;
  link = {};
  --pool.cached;
}

void PrefixCache::use(size_t index, int32_t page) {
  unlink(pools[index], page);
  pools[index].reused[page] = true;
}

std::span<const int32_t> PrefixCache::evict(size_t index) {
  Pool &pool = pools[index];
  assert(pool.cached > 0);
  std::fill(freed.begin(), freed.end(), none);
  const auto closed = int32_t(pool.pages), open = closed + 1;
  const int32_t page =
      pool.links[closed].after != closed ? pool.links[closed].after : pool.links[open].after;
  const int32_t node = pool.nodeOf[page];
  for (size_t i = 0; i < pools.size(); ++i) {
    const int32_t other = pools[i].pageOf[node];
    if ((pool.chunk && i != index) || other == none)
      continue;
    unlink(pools[i], other); // no sequence has one page of the node without the others
    pools[i].pageOf[node] = pools[i].nodeOf[other] = none;
    ++pools[i].evictions;
    freed[i] = other;
  }
  if (!pool.chunk)
    removeNode(node);
  return freed;
}

void PrefixCache::removeNode(int32_t index) {
  const Node &node = nodes[index];
  assert(node.children == 0);
  int32_t *at = &buckets[node.hash & (buckets.size() - 1)];
  while (*at != index)
    at = &nodes[*at].next;
  *at = node.next;
  if (node.parent != none)
    --nodes[node.parent].children;
  tell(false, node);
}

void PrefixCache::tell(bool stored, const Node &node) const {
  if (!observer)
    return;
  std::optional<uint64_t> parent;
  if (node.parent != none)
    parent = nodes[node.parent].hash;
  observer({stored, node.hash, parent, node.tokens});
}

} // namespace moe
