#include "runtime/text/Tokenizer.h"

#include "runtime/text/BytePairs.h"
#include "runtime/text/TestVocabulary.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <random>

using namespace moe;

namespace {

const std::string kFolder = MOE_SOURCE_DIR "/test/tokenizer/";

// The special tokens of test/tokenizer/ranked.json.
std::vector<SpecialToken> rankedSpecials(size_t vocabSize) {
  std::vector<SpecialToken> specials;
  for (const char *content : {"<|begin_of_text|>", "<|end_of_text|>", "<|header_start|>",
                              "<|header_end|>", "<|eom|>", "<|eot|>", "<|eot|>>"})
    specials.push_back({content, int32_t(vocabSize + specials.size()), true});
  return specials;
}

const Tokenizer &ranked() {
  static const auto owned = [] {
    const auto tokens = readVocabulary(kFolder + "ranked.model");
    return OwnedTokenizer::byRank(tokens, rankedSpecials(tokens.size()));
  }();
  return owned.tokenizer;
}

// The real vocabulary, without special tokens; null where it is not at hand.
const Tokenizer *llama4() {
  static const auto owned = []() -> std::unique_ptr<OwnedTokenizer> {
    const char *path = std::getenv("MOE_LLAMA4_TOKENIZER");
    if (!path)
      return nullptr;
    return std::make_unique<OwnedTokenizer>(OwnedTokenizer::byRank(readVocabulary(path)));
  }();
  return owned ? &owned->tokenizer : nullptr;
}

std::vector<int32_t> encode(const Tokenizer &tokenizer, std::string_view text,
                            bool parseSpecial = true) {
  std::vector<int32_t> ids;
  tokenizer.encode(text, ids, parseSpecial);
  return ids;
}

std::string errorOf(TokenizerSettings settings) {
  static const auto tables = *buildTokenizerTables(readVocabulary(kFolder + "ranked.model"), {});
  const auto tokenizer = Tokenizer::create(tables, std::move(settings));
  return tokenizer ? "" : tokenizer.error().message;
}

std::string randomBytes(std::mt19937 &random, size_t most) {
  std::string text(random() % (most + 1), ' ');
  for (char &c : text)
    c = random() % 2 ? char(random()) : " \n'sabcAB1!/<|"[random() % 14];
  return text;
}

} // namespace

TEST(Tokenizer, equalsHuggingFace) {
  const auto cases = readGoldens(kFolder + "ranked.txt");
  ASSERT_EQ(cases.size(), 300u);
  for (const auto &[text, ids] : cases) {
    EXPECT_EQ(encode(ranked(), text), ids) << text;
    EXPECT_EQ(ranked().decode(ids, false), text);
  }
}

TEST(Tokenizer, specialTokensAreLeftmostLongest) {
  const int32_t eot = ranked().special("<|eot|>"), eotLong = ranked().special("<|eot|>>");
  EXPECT_EQ(encode(ranked(), "<|eot|><|eot|>>"), (std::vector{eot, eotLong}));
  EXPECT_EQ(ranked().special("<|eot|"), -1);
  EXPECT_EQ(ranked().special(""), -1);
  EXPECT_EQ(ranked().bytes(eot), "<|eot|>");
  EXPECT_EQ(ranked().decode(std::vector{eot, 64, eotLong}, true), ranked().bytes(64));

  const auto match = ranked().nextSpecial("a<|eot|>b", 0);
  EXPECT_EQ(match.begin, 1u);
  EXPECT_EQ(match.length, 7u);
  EXPECT_EQ(match.id, eot);
  EXPECT_EQ(ranked().nextSpecial("a<|eot|>b", 2).begin, 9u);
}

TEST(Tokenizer, specialTokensThatAreNotParsedAreText) {
  const auto ids = encode(ranked(), "a<|eot|>", false);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), ranked().special("<|eot|>")), 0);
  EXPECT_EQ(ranked().decode(ids, true), "a<|eot|>");
}

TEST(Tokenizer, unknownIdsAreEmpty) {
  for (const int32_t id : {-1, INT32_MIN, INT32_MAX, 100000})
    EXPECT_EQ(ranked().bytes(id), "");
}

TEST(Tokenizer, anyBytesSurvive) {
  std::mt19937 random(5);
  for (int i = 0; i < 5000; ++i) {
    const std::string text = randomBytes(random, i % 50 ? 60 : 2000);
    for (const bool parseSpecial : {false, true})
      ASSERT_EQ(ranked().decode(encode(ranked(), text, parseSpecial), false), text);
  }
}

// Long pieces take another path; both are compared with the rule as it is written.
TEST(Tokenizer, piecesOfAnyLengthFollowTheRule) {
  const auto tokens = readVocabulary(kFolder + "ranked.model");
  const auto rule = [&](const std::string &text) {
    std::vector<std::string> parts;
    for (const char c : text)
      parts.push_back({c});
    while (true) {
      size_t best = tokens.size(), at = 0;
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        const size_t id =
            std::find(tokens.begin(), tokens.end(), parts[i] + parts[i + 1]) - tokens.begin();
        if (id < best)
          best = id, at = i;
      }
      if (best == tokens.size())
        break;
      parts[at] += parts[at + 1];
      parts.erase(parts.begin() + ptrdiff_t(at) + 1);
    }
    return parts;
  };
  std::mt19937 random(6);
  for (const size_t size : {1, 2, 3, 30, 62, 63, 64, 65, 66, 100, 150})
    for (const std::string letters : {"theinga", "a", "tha"}) {
      std::string text;
      while (text.size() < size)
        text += letters[random() % letters.size()];
      std::vector<std::string> parts;
      for (const int32_t id : encode(ranked(), text))
        parts.emplace_back(ranked().bytes(id));
      EXPECT_EQ(parts, rule(text)) << text;
    }
}

TEST(Tokenizer, ignoreMergesTakesWholeTokens) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte)
    tokens.push_back(std::string(1, char(byte)));
  tokens.push_back("abc"); // which no merge makes
  EXPECT_EQ(encode(OwnedTokenizer::make(tokens, {}, {}, true).tokenizer, "abc"),
            (std::vector<int32_t>{256}));
  EXPECT_EQ(encode(OwnedTokenizer::make(tokens, {}, {}, false).tokenizer, "abc"),
            (std::vector<int32_t>{'a', 'b', 'c'}));
}

TEST(Tokenizer, hugePiecesAreNoTrouble) {
  for (const char *unit : {" ", "a", "\n", "<", "<|eot|", "\xF0\x9F\x99\x82", "\xFF", "\u0301A"}) {
    std::string text;
    while (text.size() < (size_t(1) << 20))
      text += unit;
    text += "x";
    EXPECT_EQ(ranked().decode(encode(ranked(), text), false), text) << unit;
  }
}

TEST(Tokenizer, settingsAreVerified) {
  const uint32_t size = ranked().vocabSize();
  const auto id = int32_t(size);
  EXPECT_EQ(errorOf({size, {{"<a>", id}, {"<b>", id + 5}}, true, true, id}), "");
  EXPECT_EQ(errorOf({size - 1, {}}), "tokenizer: tables for " + std::to_string(size) +
                                         " ids, expected " + std::to_string(size - 1));
  EXPECT_EQ(errorOf({size, {{"", 4}}}), "tokenizer: special token 4 is empty");
  EXPECT_EQ(errorOf({size, {{"<a>", -4}}}), "tokenizer: special token -4 has a negative id");
  EXPECT_EQ(errorOf({size, {{"<a>", 4}}}),
            "tokenizer: special token 4 is also a token of the vocabulary");
  EXPECT_EQ(errorOf({size, {{"the", 4, false}}}), "");
  EXPECT_NE(errorOf({size, {{"<a>", id}, {"<a>", id + 1}}}).find("has the content of"),
            std::string::npos);
  EXPECT_EQ(errorOf({size, {{"<a>", id}, {"<b>", id}}}),
            "tokenizer: two special tokens have id " + std::to_string(id));
  EXPECT_EQ(errorOf({size, {}, true, false, id}),
            "tokenizer: the begin-of-sequence id " + std::to_string(id) + " is no token");
  EXPECT_NE(errorOf({size, {}, true, true, -1}), "");
}

TEST(Tokenizer, llama4Vectors) {
  const Tokenizer *t = llama4();
  if (!t)
    GTEST_SKIP() << "set MOE_LLAMA4_TOKENIZER to the path of Llama 4's tokenizer.model";
  const std::pair<const char *, std::vector<int32_t>> vectors[] = {
      {"Hello world", {19873, 3817}},
      {"Hello, how are you?", {19873, 24, 1659, 583, 650, 43}},
      {"The quick brown fox's 12345 jumps.\n\n  done",
       {954, 7202, 27756, 92637, 948, 220, 7235, 2127, 67072, 1574, 220, 5430}},
      {"  leading", {220, 10855}},
      {"日本語のテスト", {21764, 16728, 1169, 107459}},
      {"Don't HELLO'LL camelCase", {55624, 101471, 2972, 19, 10962, 103666, 7508}},
      {"a/b//c\r\n", {77, 4790, 405, 79, 13266}},
      {"def f(x):\n    return x", {1251, 288, 2595, 1960, 277, 677, 831}},
      {"🙂 emoji", {5796, 247, 224, 88230}},
      {"\n\n", {368}},
      {"tab\there   ", {6743, 197, 13951, 277}},
      {"system", {15651}},
      {"user", {1556}},
      {"assistant", {140680}},
      {"ipython", {607, 6934}},
      {"Hello I am doing a project on the 1918 flu pandemic and I am trying to find out how many",
       {19873, 372,   1045, 8609, 262,  3362,  436, 290,  220, 7284, 36,
        18938, 27650, 341,  372,  1045, 10016, 328, 1851, 967, 1659, 2233}},
  };
  for (const auto &[text, ids] : vectors)
    EXPECT_EQ(encode(*t, text), ids) << text;
}

// The greedy rule reaches every token of the vocabulary, so merging must agree with looking it up.
TEST(Tokenizer, llama4TokensEncodeToThemselves) {
  if (!llama4())
    GTEST_SKIP() << "set MOE_LLAMA4_TOKENIZER to the path of Llama 4's tokenizer.model";
  const auto tokens = readVocabulary(std::getenv("MOE_LLAMA4_TOKENIZER"));
  const auto tables = buildTokenizerTables(tokens, mergesByRank(tokens));
  ASSERT_TRUE(tables);
  const auto view = TokenizerTables::view(*tables);
  ASSERT_TRUE(view);
  for (size_t id = 0; id < tokens.size(); ++id) {
    std::vector<int32_t> ids;
    encodeBytePairs(*view, tokens[id], ids);
    ASSERT_EQ(ids, std::vector<int32_t>{int32_t(id)});
  }
}
