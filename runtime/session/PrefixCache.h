// Which pages of a KV cache hold the keys and values of which tokens, so that a prompt that begins
// as another did takes over its pages.
//
// What a page holds depends on its 64 tokens and on all before them, in every pool alike. So a page
// is known by a chain: a node is 64 tokens after the node before. A node has a page in each pool
// without a chunk, and in a pool with a chunk where that page is still there. Its number is that of
// its page in the first pool without a chunk. Chains are compared token by token: a hash only finds
// them.
//
// Pages belong to a KvCache, which says when the last sequence lets go of one and when the first
// takes it again. In between it is cached: it may be evicted, the longest unused first.
#ifndef MOE_RUNTIME_SESSION_PREFIXCACHE_H
#define MOE_RUNTIME_SESSION_PREFIXCACHE_H

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace moe {

// The pages of one pool of a KV cache.
struct PagePool {
  int32_t chunk; // 0: none
  int64_t pages;
};

// Of 64 tokens after a chain with the hash `parent`.
using PageHash = uint64_t (*)(uint64_t parent, uint64_t salt, std::span<const int32_t> tokens);
uint64_t pageHash(uint64_t parent, uint64_t salt, std::span<const int32_t> tokens);

// A page of 64 tokens can be taken over from now on (stored), or no longer.
struct PageEvent {
  bool stored;
  uint64_t hash;
  std::optional<uint64_t> parent;  // of the page before; none at the first
  std::span<const int32_t> tokens; // valid during the call
};
using PageObserver = std::function<void(const PageEvent &)>;

class PrefixCache {
public:
  static constexpr int32_t pageTokens = 64;
  static constexpr int32_t none = -1;

  struct Options {
    PageHash hash = pageHash;
    uint64_t seed = 0; // what the first page of a chain has for a parent's hash
  };

  // The end of a chain.
  struct Match {
    int32_t node = none;
    int64_t pages = 0;
  };

  // Some pool must have no chunk: without one no page outlives its chunk. Allocates all memory.
  PrefixCache(std::span<const PagePool> pools, const Options &options);

  // The first pool without a chunk, whose pages number the nodes.
  size_t trunk() const { return first; }

  // The longest chain of `tokens`, at most `tokens.size() - 1` of them, after which a sequence can
  // go on: pools without a chunk have all pages of it, the others those of the chunk of the next
  // position.
  Match longest(std::span<const int32_t> tokens, uint64_t salt) const;

  // The node of 64 tokens after `parent`, or none.
  int32_t find(int32_t parent, uint64_t salt, std::span<const int32_t> tokens) const;
  // Adds it, with that page of the first pool without a chunk.
  int32_t insert(int32_t parent, uint64_t salt, std::span<const int32_t> tokens, int32_t page);
  int32_t parent(int32_t node) const { return nodes[node].parent; }
  // The node's page in a pool, or none.
  int32_t page(size_t pool, int32_t node) const { return pools[pool].pageOf[node]; }
  void setPage(size_t pool, int32_t node, int32_t page);
  // Whether the page is a node's, so that nobody may write to it.
  bool published(size_t pool, int32_t page) const { return pools[pool].nodeOf[page] != none; }

  // No sequence has the published page any more. `closed`: because the last one went past its
  // chunk, so that it serves only prompts that branch off within that chunk. A sequence lets go of
  // its last page first.
  void keep(size_t pool, int32_t page, bool closed);
  // A sequence takes it again.
  void use(size_t pool, int32_t page);

  int64_t cached(size_t pool) const { return pools[pool].cached; }
  uint64_t evictions(size_t pool) const { return pools[pool].evictions; } // of pages so far

  // Forgets what `pool` can do without best, of which it has something cached. Per pool the page
  // that is free now, or none; valid until the next call.
  std::span<const int32_t> evict(size_t pool);

  void setObserver(PageObserver call) { observer = std::move(call); }

private:
  struct Node {
    uint64_t hash = 0, salt = 0;
    int32_t parent = none, children = 0;
    int32_t next = none; // in its bucket
    std::array<int32_t, pageTokens> tokens;
  };
  // Of a ring that begins and ends at one of the entries behind those of the pages.
  struct Link {
    int32_t before = none, after = none; // none: in no ring
  };
  struct Pool {
    int32_t chunk = 0;
    int64_t pages = 0, cached = 0;
    uint64_t evictions = 0;
    std::vector<int32_t> nodeOf; // per page
    std::vector<int32_t> pageOf; // per node
    std::vector<Link> links;     // per page, then of the rings: closed, open
    std::vector<char> reused;    // per page: another sequence has taken it over
  };

  uint64_t hashAfter(int32_t parent, uint64_t salt, std::span<const int32_t> tokens) const;
  void unlink(Pool &pool, int32_t page);
  void removeNode(int32_t node);
  void tell(bool stored, const Node &node) const;

  Options options;
  size_t first = 0; // of the pools without a chunk
  std::vector<Node> nodes;
  std::vector<int32_t> buckets; // the first node of each; a power of two of them
  std::vector<Pool> pools;
  std::vector<int32_t> freed;
  PageObserver observer;
};

} // namespace moe

#endif
