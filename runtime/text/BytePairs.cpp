#include "runtime/text/BytePairs.h"

#include <algorithm>
#include <functional>

namespace moe {
namespace {

constexpr uint32_t kNone = TokenizerTables::kNone;
constexpr size_t kShort = 64; // pieces up to this many bytes search all pairs: nearly all text

// Closes the gap after each merge, so that the pairs stay in a plain array.
void encodeShort(const TokenizerTables &tables, std::string_view piece, std::vector<int32_t> &out) {
  uint32_t ids[kShort];
  uint32_t ranks[kShort]; // ranks[i] is of the pair i, i + 1
  size_t count = piece.size();
  for (size_t i = 0; i < count; ++i)
    ids[i] = tables.byteId(piece[i]);
  for (size_t i = 0; i + 1 < count; ++i)
    ranks[i] = tables.rank(ids[i], ids[i + 1]);

  while (count > 1) {
    const size_t i = std::min_element(ranks, ranks + count - 1) - ranks;
    if (ranks[i] == kNone)
      break;
    ids[i] = tables.result(ranks[i]);
    std::copy(ids + i + 2, ids + count, ids + i + 1);
    std::copy(ranks + i + 1, ranks + count - 1, ranks + i);
    --count;
    if (i > 0)
      ranks[i - 1] = tables.rank(ids[i - 1], ids[i]);
    if (i + 1 < count)
      ranks[i] = tables.rank(ids[i], ids[i + 1]);
  }
  out.insert(out.end(), ids, ids + count);
}

// The same with a linked list of symbols and a heap of pairs.
class LongPiece {
public:
  LongPiece(const TokenizerTables &tables, std::string_view piece)
      : tables(tables), symbols(piece.size()) {
    for (uint32_t i = 0; i < symbols.size(); ++i)
      symbols[i] = {tables.byteId(piece[i]), kNone, i - 1, i + 1};
    symbols.back().next = kNone;
    for (uint32_t i = 0; i < symbols.size(); ++i)
      rankPair(i);
    std::make_heap(heap.begin(), heap.end(), std::greater<>());
  }

  void encode(std::vector<int32_t> &out) {
    while (!heap.empty()) {
      std::pop_heap(heap.begin(), heap.end(), std::greater<>());
      const uint64_t top = heap.back();
      heap.pop_back();
      // An entry is stale when its pair has changed since; then the rank has too, for a pair that
      // changes covers more text.
      if (symbols[uint32_t(top)].rank == uint32_t(top >> 32))
        mergeAt(uint32_t(top));
    }
    for (uint32_t i = 0; i != kNone; i = symbols[i].next)
      out.push_back(int32_t(symbols[i].id));
  }

private:
  struct Symbol {
    uint32_t id;
    uint32_t rank;           // of the pair with the next one; kNone also once it is merged away
    uint32_t previous, next; // kNone (which is 0 - 1) at the ends
  };

  bool rankPair(uint32_t i) {
    Symbol &s = symbols[i];
    s.rank = s.next == kNone ? kNone : tables.rank(s.id, symbols[s.next].id);
    if (s.rank != kNone)
      heap.push_back(uint64_t(s.rank) << 32 | i); // the lowest is next: by rank, then by place
    return s.rank != kNone;
  }

  void mergeAt(uint32_t i) {
    Symbol &left = symbols[i], &right = symbols[left.next];
    left.id = tables.result(left.rank);
    left.next = right.next;
    right.rank = kNone;
    if (left.next != kNone)
      symbols[left.next].previous = i;
    for (const uint32_t changed : {left.previous, i})
      if (changed != kNone && rankPair(changed))
        std::push_heap(heap.begin(), heap.end(), std::greater<>());
  }

  const TokenizerTables &tables;
  std::vector<Symbol> symbols;
  std::vector<uint64_t> heap;
};

} // namespace

void encodeBytePairs(const TokenizerTables &tables, std::string_view piece,
                     std::vector<int32_t> &out) {
  if (piece.size() <= kShort)
    return encodeShort(tables, piece, out);
  // Positions are 32 bits, so a gigabyte without a space is encoded in parts.
  constexpr size_t kMaxPiece = size_t(1) << 30;
  for (; !piece.empty(); piece.remove_prefix(std::min(piece.size(), kMaxPiece)))
    LongPiece(tables, piece.substr(0, kMaxPiece)).encode(out);
}

} // namespace moe
