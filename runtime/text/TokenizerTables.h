// The tables of a byte-level BPE, in the form in which a plan holds them and the tokenizer reads
// them: built once by the compiler, then mapped and used in place.
//
// All numbers are little-endian uint32. V = vocabulary, M = merges, T and P = slots of the two hash
// tables, both powers of two, B = bytes of all tokens.
//
//   header          magic "MTOK", version 1, V, M, T, P, B, 0
//   offsets[V + 1]  token i is bytes[offsets[i]] up to bytes[offsets[i + 1]]; empty: id i is a hole
//   byteIds[256]    the token that is this one byte
//   merges[M]       {left, right, result} ids, the first to be merged first: the index is the rank
//   tokenSlots[T]   ids by hash of their bytes, ~0 where free
//   mergeSlots[P]   ranks by hash of (left, right), ~0 where free
//   bytes[B]
//
// Both hash tables use linear probing, and an entry is at most kMaxProbes slots from its place, so
// that neither verifying nor using a hostile file can take long.
#ifndef MOE_RUNTIME_TEXT_TOKENIZERTABLES_H
#define MOE_RUNTIME_TEXT_TOKENIZERTABLES_H

#include "runtime/Status.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

struct Merge {
  int32_t left, right;
  bool operator==(const Merge &) const = default;
};

// Tables for tokens[id] (bytes, not empty but for holes) and merges in order of rank. A merge's
// result is the token that holds its two parts' bytes. Says what is wrong with the vocabulary when
// a token occurs twice, a byte has no token, or a merge has no result or occurs twice.
Result<std::vector<std::byte>> buildTokenizerTables(std::span<const std::string> tokens,
                                                    std::span<const Merge> merges);

// The merges of a vocabulary that is given by rank alone (tiktoken): always merge the two
// neighbours whose concatenation has the lowest id. Each way to cut a token into two tokens is a
// merge; they are ordered by result, then left, then right.
std::vector<Merge> mergesByRank(std::span<const std::string> tokens);

// A verified view of tables; the bytes are not owned and must outlive it.
class TokenizerTables {
public:
  static constexpr uint32_t kNone = ~0u;

  // Checks everything that the calls below rely on, in time linear in `tables`, which starts at a
  // multiple of 4. Error: InvalidPlan.
  static Result<TokenizerTables> view(std::span<const std::byte> tables);

  uint32_t vocabSize() const { return uint32_t(offsets.size() - 1); }
  size_t longestToken() const { return longest; }

  // Bytes of token `id` < vocabSize(); empty for a hole.
  std::string_view token(uint32_t id) const {
    return bytes.substr(offsets[id], offsets[id + 1] - offsets[id]);
  }
  uint32_t byteId(uint8_t byte) const { return byteIds[byte]; }

  // The token with exactly these bytes, or kNone.
  uint32_t find(std::string_view token) const;

  // The rank of merging two neighbours, or kNone, and the token that a merge makes.
  uint32_t rank(uint32_t left, uint32_t right) const;
  uint32_t result(uint32_t rank) const { return merges[rank].result; }

private:
  struct Entry {
    uint32_t left, right, result;
  };

  std::span<const uint32_t> offsets, byteIds, tokenSlots, mergeSlots;
  std::span<const Entry> merges;
  std::string_view bytes;
  size_t longest = 0;
};

} // namespace moe

#endif
