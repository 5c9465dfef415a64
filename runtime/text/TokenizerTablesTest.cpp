#include "runtime/text/TokenizerTables.h"

#include "runtime/text/TestVocabulary.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

using namespace moe;

namespace {

// All bytes in reverse, then "ab", "abc", a hole, "bc".
std::vector<std::string> tinyVocabulary() {
  std::vector<std::string> tokens;
  for (int byte = 255; byte >= 0; --byte)
    tokens.push_back(std::string(1, char(byte)));
  for (const char *token : {"ab", "abc", "", "bc"})
    tokens.push_back(token);
  return tokens;
}

constexpr int32_t kA = 255 - 'a', kB = 255 - 'b', kC = 255 - 'c', kAb = 256, kAbc = 257, kBc = 259;
const std::vector<Merge> kMerges = {{kA, kB}, {kA, kBc}, {kAb, kC}, {kB, kC}};

std::vector<std::byte> tinyTables() {
  return std::move(*buildTokenizerTables(tinyVocabulary(), kMerges));
}

// Indices of the uint32 words of tinyTables().
enum Word { Magic, Version, Vocab, Merges, TokenSlots, MergeSlots, Bytes, Zero, Offsets };
constexpr size_t kByteIds = Offsets + 261, kEntries = kByteIds + 256, kTokenSlots = kEntries + 12,
                 kMergeSlots = kTokenSlots + 1024;

// The error of tables in which one word is changed.
std::string errorWith(size_t word, uint32_t value) {
  auto tables = tinyTables();
  std::memcpy(tables.data() + 4 * word, &value, 4);
  const auto view = TokenizerTables::view(tables);
  return view ? "" : view.error().message;
}

uint32_t wordAt(size_t word) {
  uint32_t value;
  std::memcpy(&value, tinyTables().data() + 4 * word, 4);
  return value;
}

size_t firstUsed(size_t word) {
  while (wordAt(word) == ~0u)
    ++word;
  return word;
}

} // namespace

TEST(TokenizerTables, holdWhatWasBuilt) {
  const auto tables = tinyTables();
  const auto view = TokenizerTables::view(tables);
  ASSERT_TRUE(view) << view.error().message;
  EXPECT_EQ(view->vocabSize(), 260u);
  EXPECT_EQ(view->longestToken(), 3u);
  EXPECT_EQ(view->token(kAbc), "abc");
  EXPECT_EQ(view->token(258), "");
  EXPECT_EQ(view->find("abc"), uint32_t(kAbc));
  EXPECT_EQ(view->find("b"), uint32_t(kB));
  EXPECT_EQ(view->find("ac"), TokenizerTables::kNone);
  EXPECT_EQ(view->find(""), TokenizerTables::kNone);
  EXPECT_EQ(view->find("abcabc"), TokenizerTables::kNone);
  EXPECT_EQ(view->byteId('a'), uint32_t(kA));
  for (uint32_t rank = 0; rank < kMerges.size(); ++rank)
    EXPECT_EQ(view->rank(kMerges[rank].left, kMerges[rank].right), rank);
  EXPECT_EQ(view->result(1), uint32_t(kAbc));
  EXPECT_EQ(view->rank(kC, kA), TokenizerTables::kNone);
}

TEST(TokenizerTables, mergesByRank) {
  EXPECT_EQ(mergesByRank(tinyVocabulary()),
            (std::vector<Merge>{{kA, kB}, {kA, kBc}, {kAb, kC}, {kB, kC}}));
}

TEST(TokenizerTables, aVocabularyThatCannotBeBuilt) {
  const auto error = [](auto change, std::vector<Merge> merges = {}) {
    auto tokens = tinyVocabulary();
    change(tokens);
    const auto tables = buildTokenizerTables(tokens, merges);
    return tables ? "" : tables.error().message;
  };
  const auto same = [](auto &) {};
  EXPECT_EQ(error(same), "");
  EXPECT_EQ(error([](auto &t) { t.push_back("abc"); }),
            "vocabulary: ids 257 and 260 have the same bytes");
  EXPECT_EQ(error([](auto &t) { t[kA] = "aa"; }), "vocabulary: byte 97 has no token of its own");
  EXPECT_EQ(error(same, {{kA, 260}}), "vocabulary: merge 0 has a part that is no token");
  EXPECT_EQ(error(same, {{-1, kA}}), "vocabulary: merge 0 has a part that is no token");
  EXPECT_EQ(error(same, {{258, kA}}), "vocabulary: merge 0 has a part that is no token");
  EXPECT_EQ(error(same, {{kC, kA}}), "vocabulary: merge 0 makes bytes that are no token");
  EXPECT_EQ(error(same, {{kA, kB}, {kA, kB}}), "vocabulary: merge 1 occurs twice");
}

TEST(TokenizerTables, damageIsFound) {
  const std::string prefix = "tokenizer tables: ";
  EXPECT_EQ(errorWith(Magic, 1), prefix + "not the tables of a tokenizer");
  EXPECT_EQ(errorWith(Version, 2), prefix + "version 2, this program reads version 1");
  EXPECT_EQ(errorWith(Vocab, ~0u), prefix + "damaged header");
  EXPECT_EQ(errorWith(Merges, ~0u), prefix + "damaged header");
  EXPECT_EQ(errorWith(Zero, 1), prefix + "damaged header");
  for (const Word slots : {TokenSlots, MergeSlots})
    for (const uint32_t size : {0u, 3u, ~0u})
      EXPECT_EQ(errorWith(slots, size), prefix + "a hash table's size is not a power of two");
  for (const Word count : {Vocab, Merges, Bytes})
    EXPECT_NE(errorWith(count, 5).find("bytes long, the header says"), std::string::npos);
  EXPECT_NE(errorWith(TokenSlots, 1u << 31).find("the header says"), std::string::npos);

  EXPECT_EQ(errorWith(Offsets, 1), prefix + "token offsets are out of order");
  EXPECT_EQ(errorWith(Offsets + 3, 1), prefix + "token offsets are out of order");
  EXPECT_EQ(errorWith(Offsets + 3, ~0u), prefix + "token offsets are out of order");
  EXPECT_EQ(errorWith(Offsets + 260, 7), prefix + "token offsets are out of order");
  EXPECT_EQ(errorWith(kByteIds + 'a', kB), prefix + "byte 97 has the wrong token");
  EXPECT_EQ(errorWith(kByteIds + 'a', kAb), prefix + "byte 97 has the wrong token");
  EXPECT_EQ(errorWith(kByteIds + 'a', 260), prefix + "byte 97 has the wrong token");

  for (size_t part = 0; part < 3; ++part)
    EXPECT_EQ(errorWith(kEntries + part, 260), prefix + "merge 0 has an id outside the vocabulary");
  EXPECT_EQ(errorWith(kEntries + 2, kBc), prefix + "merge 0 does not make its result");
  EXPECT_EQ(errorWith(kEntries + 1, 258), prefix + "merge 0 does not make its result");
  EXPECT_EQ(errorWith(kEntries + 2, kAbc), prefix + "merge 0 does not make its result");

  const char *missing = "a hash table holds an entry that does not exist";
  EXPECT_EQ(errorWith(kTokenSlots, 260), prefix + missing);
  EXPECT_EQ(errorWith(kMergeSlots, 4), prefix + missing);
  const size_t token = firstUsed(kTokenSlots), merge = firstUsed(kMergeSlots);
  EXPECT_EQ(errorWith(token, ~0u),
            prefix + "token " + std::to_string(wordAt(token)) + " is not found by its bytes");
  EXPECT_EQ(errorWith(merge, ~0u),
            prefix + "merge " + std::to_string(wordAt(merge)) + " is not found by its parts");
}

TEST(TokenizerTables, twoTokensWithTheSameBytesAreFound) {
  auto tables = tinyTables();
  std::memcpy(tables.data() + tables.size() - 2, "ab", 2); // "bc" becomes a second "ab"
  EXPECT_FALSE(TokenizerTables::view(tables));
}

TEST(TokenizerTables, everyTruncationIsFound) {
  const auto tables = tinyTables();
  for (size_t size = 0; size < tables.size(); ++size)
    ASSERT_FALSE(TokenizerTables::view(std::span(tables).first(size)));
  auto longer = tables;
  longer.push_back({});
  EXPECT_FALSE(TokenizerTables::view(longer));
}

TEST(TokenizerTables, misalignedTablesAreFound) {
  auto tables = tinyTables();
  tables.insert(tables.begin(), std::byte{});
  const auto view = TokenizerTables::view(std::span(tables).subspan(1));
  ASSERT_FALSE(view);
  EXPECT_EQ(view.error().message, "tokenizer tables: not at a multiple of 4");
}

// Whatever is accepted must be safe to use: this is for a build with sanitizers.
TEST(TokenizerTables, flippedBitsAreFoundOrHarmless) {
  const auto good = tinyTables();
  std::mt19937 random(3);
  std::string text = "abcabcbcaaab \xFF";
  for (int round = 0; round < 20000; ++round) {
    auto tables = good;
    for (uint32_t flips = 1 + random() % 3; flips > 0; --flips) {
      // Half of the flips in the header and the merges, which are small.
      const bool dense = random() % 2;
      const size_t at = !dense         ? random() % tables.size()
                        : random() % 2 ? random() % 32
                                       : kEntries * 4 + random() % 48;
      tables[at] ^= std::byte(1 << random() % 8);
    }
    const auto tokenizer = Tokenizer::create(tables, {260, {}, bool(random() % 2), false, -1});
    if (!tokenizer)
      continue;
    std::vector<int32_t> ids;
    tokenizer->encode(text, ids);
    ASSERT_EQ(tokenizer->decode(ids, false), text);
  }
}
