#include "runtime/text/Pretokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

using namespace moe;

static std::vector<std::string> pieces(std::string_view text) {
  std::vector<std::string> out;
  for (size_t start = 0; start < text.size();) {
    const size_t end = endOfPiece(text, start);
    EXPECT_GT(end, start);
    out.emplace_back(text.substr(start, end - start));
    start = end;
  }
  return out;
}

using Pieces = std::vector<std::string>;

TEST(Pretokenizer, wordsTakeOneLeadingCharacter) {
  EXPECT_EQ(pieces("Hello world"), (Pieces{"Hello", " world"}));
  EXPECT_EQ(pieces("a/b//c"), (Pieces{"a", "/b", "//", "c"}));
  EXPECT_EQ(pieces("\tx\nx"), (Pieces{"\tx", "\n", "x"}));
  EXPECT_EQ(pieces("!!a"), (Pieces{"!!", "a"}));
}

TEST(Pretokenizer, wordsAreUpperCaseThenLowerCase) {
  EXPECT_EQ(pieces("camelCase HTTPServer"), (Pieces{"camel", "Case", " HTTPServer"}));
  EXPECT_EQ(pieces("ABC abC"), (Pieces{"ABC", " ab", "C"}));
}

TEST(Pretokenizer, upperCaseGivesBackToTheLastCaselessLetter) {
  EXPECT_EQ(pieces("A\u00AABC"), (Pieces{"A\u00AA", "BC"}));
  EXPECT_EQ(pieces("A\u00AABC\u00AAD"), (Pieces{"A\u00AABC\u00AA", "D"}));
  EXPECT_EQ(pieces("A\u00AABc"), (Pieces{"A\u00AABc"}));
}

TEST(Pretokenizer, aMarkLeadsOrIsTheWord) {
  EXPECT_EQ(pieces("\u0301abc"), (Pieces{"\u0301abc"}));
  EXPECT_EQ(pieces("\u0301ABC"), (Pieces{"\u0301", "ABC"}));
  EXPECT_EQ(pieces("\u0301's"), (Pieces{"\u0301's"}));
  EXPECT_EQ(pieces("!\u0301"), (Pieces{"!\u0301"}));
  EXPECT_EQ(pieces("!!\u0301"), (Pieces{"!!\u0301"}));
}

TEST(Pretokenizer, contractions) {
  EXPECT_EQ(pieces("it's we'LL I'Ve x'r"), (Pieces{"it's", " we'LL", " I'Ve", " x", "'r"}));
  EXPECT_EQ(pieces("a'sb"), (Pieces{"a's", "b"}));
  EXPECT_EQ(pieces("a'\u017Fx"), (Pieces{"a'\u017F", "x"})); // long s
  EXPECT_EQ(pieces("a'"), (Pieces{"a", "'"}));
  EXPECT_EQ(pieces("'s"), (Pieces{"'s"}));
  EXPECT_EQ(pieces("1's"), (Pieces{"1", "'s"}));
}

TEST(Pretokenizer, numbersByThree) {
  EXPECT_EQ(pieces("1234567 8\u0663\u2167\u00BD"),
            (Pieces{"123", "456", "7", " ", "8\u0663\u2167", "\u00BD"}));
}

TEST(Pretokenizer, symbolsTakeNewlinesAndSlashes) {
  EXPECT_EQ(pieces(" ?!\r\n/\n x"), (Pieces{" ?!\r\n/\n", " x"}));
  EXPECT_EQ(pieces("\t?"), (Pieces{"\t", "?"}));
}

TEST(Pretokenizer, spaces) {
  EXPECT_EQ(pieces("a   b"), (Pieces{"a", "  ", " b"}));
  EXPECT_EQ(pieces("a   1"), (Pieces{"a", "  ", " ", "1"}));
  EXPECT_EQ(pieces("a   "), (Pieces{"a", "   "}));
  EXPECT_EQ(pieces(" \n \n  x"), (Pieces{" \n \n", " ", " x"}));
  EXPECT_EQ(pieces("\u3000\u00A0\u0085."), (Pieces{"\u3000\u00A0", "\u0085", "."}));
}

TEST(Pretokenizer, invalidBytesAreSymbols) {
  EXPECT_EQ(pieces("a\xFF\xFE"), (Pieces{"a", "\xFF\xFE"}));
  EXPECT_EQ(pieces(" \xE6\x97"), (Pieces{" \xE6\x97"}));             // truncated
  EXPECT_EQ(pieces("\xED\xA0\x80x"), (Pieces{"\xED\xA0\x80", "x"})); // surrogate
}

TEST(Pretokenizer, trim) {
  EXPECT_EQ(trim(" \n a b\t\u3000\x1c"), "a b");
  EXPECT_EQ(trim("\u00A0\u00E9\u00A0"), "\u00E9");
  EXPECT_EQ(trim(" \u2003 "), "");
  EXPECT_EQ(trim(""), "");
  EXPECT_EQ(trim("\u200B"), "\u200B"); // zero width space is not white space
  EXPECT_EQ(trim("a\xA0"), "a\xA0");   // half a character
}
