#include "runtime/text/Detokenizer.h"

#include "runtime/text/TestVocabulary.h"
#include "runtime/text/Utf8.h"

#include <gtest/gtest.h>

#include <random>

using namespace moe;

static const OwnedTokenizer &small() {
  static const auto tokenizer = OwnedTokenizer::byRank(
      readVocabulary(MOE_SOURCE_DIR "/test/tokenizer/ranked.model"), {{"<|eot|>", 700, true}});
  return tokenizer;
}

static std::string stream(const Tokenizer &tokenizer, const std::vector<int32_t> &ids,
                          bool skipSpecial = true) {
  Detokenizer detokenizer(tokenizer, skipSpecial);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = detokenizer.push(id);
    EXPECT_EQ(replaceInvalidUtf8(part), part); // each part is valid by itself
    text += part;
  }
  return text + detokenizer.flush();
}

// Expected values are those of Python's bytes.decode("utf-8", "replace").
TEST(Utf8, invalidRunsAreReplacedAsPythonDoes) {
  const std::string r = "\uFFFD";
  EXPECT_EQ(replaceInvalidUtf8("a\u00E9\u65E5\U0001F642"), "a\u00E9\u65E5\U0001F642");
  EXPECT_EQ(replaceInvalidUtf8("\x80z\xFFz"), r + "z" + r + "z");
  EXPECT_EQ(replaceInvalidUtf8("\xC0\x80"), r + r);                 // overlong
  EXPECT_EQ(replaceInvalidUtf8("\xE0\x80\x80"), r + r + r);         // overlong
  EXPECT_EQ(replaceInvalidUtf8("\xED\xA0\x80"), r + r + r);         // surrogate
  EXPECT_EQ(replaceInvalidUtf8("\xF4\x90\x80\x80"), r + r + r + r); // past U+10FFFF
  EXPECT_EQ(replaceInvalidUtf8("\xE6\x97"), r);                     // truncated
  EXPECT_EQ(replaceInvalidUtf8("\xF0\x9F\x99z"), r + "z");          // one maximal subpart
  EXPECT_EQ(replaceInvalidUtf8("\xF0\x9F\xE6\x97\xA5"), r + "\u65E5");
}

TEST(Detokenizer, holdsACharacterUntilItIsWhole) {
  const Tokenizer &t = small().tokenizer;
  Detokenizer detokenizer(t);
  std::vector<int32_t> ids;
  for (const char *byte : {"\xF0", "\x9F", "\x99", "\x82"})
    t.encode(byte, ids);
  ASSERT_EQ(ids.size(), 4u);
  EXPECT_EQ(detokenizer.push(ids[0]), "");
  EXPECT_EQ(detokenizer.push(ids[1]), "");
  EXPECT_EQ(detokenizer.push(ids[2]), "");
  EXPECT_EQ(detokenizer.push(ids[3]), "\U0001F642");
  EXPECT_EQ(detokenizer.push(ids[0]), "");
  EXPECT_EQ(detokenizer.push(ids[0]), "\uFFFD");
  EXPECT_EQ(detokenizer.flush(), "\uFFFD");
  EXPECT_EQ(detokenizer.flush(), "");
}

TEST(Detokenizer, specialTokens) {
  const Tokenizer &t = small().tokenizer;
  EXPECT_EQ(stream(t, {700, t.special("<|eot|>"), -1, 699, 1 << 30}), "");
  EXPECT_EQ(stream(t, {700, 100000}, false), "<|eot|>");
  Detokenizer some(t, true, {700}), others(t, true, {699, 100000});
  EXPECT_EQ(some.push(700), "<|eot|>");
  EXPECT_EQ(others.push(700) + others.push(699) + others.push(100000), "");
}

TEST(Detokenizer, equalsTheDecodedWhole) {
  const Tokenizer &t = small().tokenizer;
  std::mt19937 random(2);
  for (int i = 0; i < 3000; ++i) {
    std::vector<int32_t> ids;
    const size_t count = random() % 40;
    const bool soup = i % 2; // mostly bytes that begin or continue a character
    while (ids.size() < count) {
      if (soup)
        t.encode(std::string(1, char(0x80 + random() % 0x80)), ids);
      else
        ids.push_back(int32_t(random() % 701));
    }
    for (const bool skip : {false, true})
      ASSERT_EQ(stream(t, ids, skip), replaceInvalidUtf8(t.decode(ids, skip)));
  }
}
