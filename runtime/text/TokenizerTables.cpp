#include "runtime/text/TokenizerTables.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

namespace moe {
namespace {

static_assert(std::endian::native == std::endian::little, "tables are read in place");

constexpr uint32_t kMagic = 0x4B4F544D; // "MTOK"
constexpr uint32_t kVersion = 1;
constexpr uint32_t kMaxProbes = 128;
constexpr uint32_t kMaxIds = 1u << 28; // sizes in bytes then fit in 64 bits with room to spare

struct Header {
  uint32_t magic, version, vocab, merges, tokenSlots, mergeSlots, bytes, zero;
};

uint32_t hashOf(std::string_view token) { // FNV-1a, folded: most tokens are a few bytes
  uint64_t h = 0xCBF29CE484222325;
  for (const char c : token)
    h = (h ^ uint8_t(c)) * 0x100000001B3;
  return uint32_t(h ^ h >> 32);
}

uint32_t hashOf(uint32_t left, uint32_t right) {
  const uint64_t h = (uint64_t(left) << 32 | right) * 0x9E3779B97F4A7C15;
  return uint32_t((h ^ h >> 29) * 0xBF58476D1CE4E5B9 >> 32);
}

// The first entry, counted from the place of `hash`, that `equals`.
template <typename Equals>
uint32_t probe(std::span<const uint32_t> slots, uint32_t hash, Equals equals) {
  const uint32_t mask = uint32_t(slots.size() - 1);
  for (uint32_t i = 0; i < kMaxProbes; ++i) {
    const uint32_t entry = slots[(hash + i) & mask];
    if (entry == TokenizerTables::kNone || equals(entry))
      return entry;
  }
  return TokenizerTables::kNone;
}

struct Keyed {
  uint32_t hash, entry;
};

// At most half of the slots are taken, fewer if that is what it takes to keep within kMaxProbes.
// Empty: nothing reasonable would.
std::vector<uint32_t> makeSlots(std::span<const Keyed> entries) {
  const size_t smallest = std::bit_ceil(std::max<size_t>(2 * entries.size(), 2));
  for (size_t size = smallest; size <= 16 * smallest; size *= 2) {
    std::vector<uint32_t> slots(size, TokenizerTables::kNone);
    const auto insert = [&](Keyed keyed) {
      for (uint32_t i = 0; i < kMaxProbes; ++i)
        if (uint32_t &slot = slots[(keyed.hash + i) & (size - 1)]; slot == TokenizerTables::kNone) {
          slot = keyed.entry;
          return true;
        }
      return false;
    };
    if (std::all_of(entries.begin(), entries.end(), insert))
      return slots;
  }
  return {};
}

Error invalid(std::string what) {
  return Error{Code::InvalidPlan, "tokenizer tables: " + std::move(what)};
}

Error badVocabulary(std::string what) {
  return Error{Code::InvalidArgument, "vocabulary: " + std::move(what)};
}

using Ids = std::unordered_map<std::string_view, uint32_t>;

uint32_t lookUp(const Ids &ids, const std::string &token) {
  const auto it = ids.find(token);
  return it == ids.end() ? TokenizerTables::kNone : it->second;
}

} // namespace

Result<std::vector<std::byte>> buildTokenizerTables(std::span<const std::string> tokens,
                                                    std::span<const Merge> merges) {
  if (tokens.size() > kMaxIds || merges.size() > kMaxIds)
    return badVocabulary("more than 2^28 tokens or merges");
  Header header{kMagic, kVersion, uint32_t(tokens.size()), uint32_t(merges.size()), 0, 0, 0, 0};

  Ids ids;
  std::string bytes;
  std::vector<uint32_t> offsets{0};
  for (const std::string &token : tokens) {
    const auto id = uint32_t(offsets.size() - 1);
    if (!token.empty())
      if (const auto [it, isNew] = ids.emplace(token, id); !isNew)
        return badVocabulary("ids " + std::to_string(it->second) + " and " + std::to_string(id) +
                             " have the same bytes");
    bytes += token;
    if (bytes.size() >= TokenizerTables::kNone)
      return badVocabulary("more than 4 GiB of tokens");
    offsets.push_back(uint32_t(bytes.size()));
  }
  header.bytes = uint32_t(bytes.size());

  std::array<uint32_t, 256> byteIds;
  for (int byte = 0; byte < 256; ++byte) {
    byteIds[byte] = lookUp(ids, std::string(1, char(byte)));
    if (byteIds[byte] == TokenizerTables::kNone)
      return badVocabulary("byte " + std::to_string(byte) + " has no token of its own");
  }

  std::vector<std::array<uint32_t, 3>> entries;
  std::unordered_set<uint64_t> pairs;
  for (const auto [left, right] : merges) {
    const std::string rank = std::to_string(entries.size());
    const auto l = uint32_t(left), r = uint32_t(right);
    if (l >= tokens.size() || r >= tokens.size() || tokens[l].empty() || tokens[r].empty())
      return badVocabulary("merge " + rank + " has a part that is no token");
    const uint32_t result = lookUp(ids, tokens[l] + tokens[r]);
    if (result == TokenizerTables::kNone)
      return badVocabulary("merge " + rank + " makes bytes that are no token");
    if (!pairs.insert(uint64_t(l) << 32 | r).second)
      return badVocabulary("merge " + rank + " occurs twice");
    entries.push_back({l, r, result});
  }

  std::vector<Keyed> tokenKeys, mergeKeys;
  for (uint32_t id = 0; id < tokens.size(); ++id)
    if (!tokens[id].empty())
      tokenKeys.push_back({hashOf(tokens[id]), id});
  for (uint32_t rank = 0; rank < entries.size(); ++rank)
    mergeKeys.push_back({hashOf(entries[rank][0], entries[rank][1]), rank});
  const auto tokenSlots = makeSlots(tokenKeys), mergeSlots = makeSlots(mergeKeys);
  if (tokenSlots.empty() || mergeSlots.empty())
    return badVocabulary("too many tokens or merges share a hash");
  header.tokenSlots = uint32_t(tokenSlots.size());
  header.mergeSlots = uint32_t(mergeSlots.size());

  std::vector<std::byte> out;
  const auto append = [&](const void *data, size_t size) {
    const auto *first = static_cast<const std::byte *>(data);
    out.insert(out.end(), first, first + size);
  };
  append(&header, sizeof header);
  append(offsets.data(), offsets.size() * 4);
  append(byteIds.data(), byteIds.size() * 4);
  append(entries.data(), entries.size() * 12);
  append(tokenSlots.data(), tokenSlots.size() * 4);
  append(mergeSlots.data(), mergeSlots.size() * 4);
  append(bytes.data(), bytes.size());
  return out;
}

std::vector<Merge> mergesByRank(std::span<const std::string> tokens) {
  Ids ids;
  for (uint32_t id = 0; id < tokens.size(); ++id)
    if (!tokens[id].empty())
      ids.emplace(tokens[id], id);

  std::vector<Merge> merges;
  for (const std::string_view token : tokens) {
    const auto first = merges.end() - merges.begin();
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = ids.find(token.substr(0, cut)), right = ids.find(token.substr(cut));
      if (left != ids.end() && right != ids.end())
        merges.push_back({int32_t(left->second), int32_t(right->second)});
    }
    std::sort(merges.begin() + first, merges.end(), [](const Merge &a, const Merge &b) {
      return std::pair(a.left, a.right) < std::pair(b.left, b.right);
    });
  }
  return merges;
}

Result<TokenizerTables> TokenizerTables::view(std::span<const std::byte> tables) {
  Header header;
  if (tables.size() < sizeof header)
    return invalid("shorter than their header");
  if (reinterpret_cast<uintptr_t>(tables.data()) % alignof(uint32_t) != 0)
    return invalid("not at a multiple of 4");
  std::memcpy(&header, tables.data(), sizeof header);
  if (header.magic != kMagic)
    return invalid("not the tables of a tokenizer");
  if (header.version != kVersion)
    return invalid("version " + std::to_string(header.version) + ", this program reads version " +
                   std::to_string(kVersion));
  if (header.vocab > kMaxIds || header.merges > kMaxIds || header.zero != 0)
    return invalid("damaged header");
  if (!std::has_single_bit(header.tokenSlots) || !std::has_single_bit(header.mergeSlots))
    return invalid("a hash table's size is not a power of two");
  const uint64_t size = sizeof header + 4 * (uint64_t(header.vocab) + 1) + 4 * 256 +
                        12 * uint64_t(header.merges) + 4 * uint64_t(header.tokenSlots) +
                        4 * uint64_t(header.mergeSlots) + header.bytes;
  if (size != tables.size())
    return invalid(std::to_string(tables.size()) + " bytes long, the header says " +
                   std::to_string(size));

  TokenizerTables v;
  const std::byte *at = tables.data() + sizeof header;
  const auto take = [&]<typename T>(std::span<const T> &part, size_t count) {
    part = {reinterpret_cast<const T *>(at), count};
    at += count * sizeof(T);
  };
  take(v.offsets, size_t(header.vocab) + 1);
  take(v.byteIds, 256);
  take(v.merges, header.merges);
  take(v.tokenSlots, header.tokenSlots);
  take(v.mergeSlots, header.mergeSlots);
  v.bytes = {reinterpret_cast<const char *>(at), header.bytes};

  if (v.offsets.front() != 0 || v.offsets.back() != header.bytes ||
      !std::is_sorted(v.offsets.begin(), v.offsets.end()))
    return invalid("token offsets are out of order");
  const auto outOfRange = [](std::span<const uint32_t> slots, uint32_t end) {
    return std::any_of(slots.begin(), slots.end(),
                       [end](uint32_t entry) { return entry != kNone && entry >= end; });
  };
  if (outOfRange(v.tokenSlots, header.vocab) || outOfRange(v.mergeSlots, header.merges))
    return invalid("a hash table holds an entry that does not exist");

  // That each entry is found under its own key says also that no two have the same key.
  for (uint32_t id = 0; id < header.vocab; ++id) {
    v.longest = std::max(v.longest, v.token(id).size());
    if (!v.token(id).empty() && v.find(v.token(id)) != id)
      return invalid("token " + std::to_string(id) + " is not found by its bytes");
  }
  for (int byte = 0; byte < 256; ++byte) {
    const uint32_t id = v.byteIds[byte];
    if (id >= header.vocab || v.token(id).size() != 1 || uint8_t(v.token(id)[0]) != byte)
      return invalid("byte " + std::to_string(byte) + " has the wrong token");
  }
  for (uint32_t rank = 0; rank < header.merges; ++rank) {
    const auto [left, right, result] = v.merges[rank];
    if (left >= header.vocab || right >= header.vocab || result >= header.vocab)
      return invalid("merge " + std::to_string(rank) + " has an id outside the vocabulary");
    const std::string_view l = v.token(left), r = v.token(right), both = v.token(result);
    if (l.empty() || r.empty() || both.size() != l.size() + r.size() || !both.starts_with(l) ||
        !both.ends_with(r))
      return invalid("merge " + std::to_string(rank) + " does not make its result");
    if (v.rank(left, right) != rank)
      return invalid("merge " + std::to_string(rank) + " is not found by its parts");
  }
  return v;
}

uint32_t TokenizerTables::find(std::string_view token) const {
  if (token.size() > longest)
    return kNone;
  return probe(tokenSlots, hashOf(token), [&](uint32_t id) { return this->token(id) == token; });
}

uint32_t TokenizerTables::rank(uint32_t left, uint32_t right) const {
  return probe(mergeSlots, hashOf(left, right), [&](uint32_t rank) {
    return merges[rank].left == left && merges[rank].right == right;
  });
}

} // namespace moe
