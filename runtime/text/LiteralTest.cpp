#include "runtime/text/Literal.h"

#include "runtime/text/TestJson.h"

#include <gtest/gtest.h>

#include <random>

using namespace moe;

namespace {

std::string print(std::string_view text, LiteralStyle style = LiteralStyle::Compact) {
  return printLiteral(text, style).value_or("none");
}

} // namespace

TEST(Literal, styles) {
  const char *text = R"( {"a" : [1,2.50 , true],"b":{}, "c": [],"d":{"e":null}} )";
  EXPECT_EQ(print(text), R"({"a":[1,2.5,true],"b":{},"c":[],"d":{"e":null}})");
  EXPECT_EQ(print(text, LiteralStyle::Spaced),
            R"({"a": [1, 2.5, true], "b": {}, "c": [], "d": {"e": null}})");
  EXPECT_EQ(print(text, LiteralStyle::Python),
            R"({"a": [1, 2.5, True], "b": {}, "c": [], "d": {"e": None}})");
  EXPECT_EQ(print(text, LiteralStyle::Keywords), R"(a=[1, 2.5, True], b={}, c=[], d={"e": None})");
  EXPECT_EQ(print("{}", LiteralStyle::Keywords), "");
  EXPECT_EQ(print(text, LiteralStyle::Indented), R"({
    "a": [
        1,
        2.5,
        true
    ],
    "b": {},
    "c": [],
    "d": {
        "e": null
    }
})");
  EXPECT_EQ(print(R"("a\n\"b\"")", LiteralStyle::Text), "a\n\"b\"");
  EXPECT_EQ(print(R"(["a"])", LiteralStyle::Text), R"(["a"])");
}

// Left, as Python's json.dumps(json.loads(right)) prints it.
TEST(Literal, numbersAsPythonPrintsThem) {
  const std::pair<const char *, const char *> cases[] = {
      {"0", "0"},
      {"0", "-0"},
      {"-0.0", "-0.0"},
      {"123456789012345678901234567890", "123456789012345678901234567890"},
      {"0.5", "0.50"},
      {"-1500.0", "-1.5e3"},
      {"0.1", "1E-1"},
      {"0.0001", "0.0001"},
      {"1e-05", "0.00001"},
      {"1.5e-07", "1.5e-7"},
      {"1000000000000000.0", "1e15"},
      {"9007199254740992.0", "9007199254740993.0"},
      {"1e+16", "1e16"},
      {"1.2345e+20", "123450000000000000000.0"},
      {"1.7976931348623157e+308", "1.7976931348623157e308"},
      {"5e-324", "5e-324"},
      {"0.0", "1e-400"},
      {"0.30000000000000004", "0.30000000000000004"},
  };
  for (const auto &[expected, text] : cases)
    EXPECT_EQ(print(text), expected);
}

TEST(Literal, stringsAsPythonPrintsThem) {
  EXPECT_EQ(
      print("\"\xC3\xA9 \\u00e9 \\ud83d\\ude00 \\/ \\u007f \\u0001 \\b\\f\\n\\r\\t \\\" \\\\\""),
      "\"\xC3\xA9 \xC3\xA9 \xF0\x9F\x98\x80 / \x7F \\u0001 \\b\\f\\n\\r\\t \\\" \\\\\"");
  // Halves of a pair stand for no character.
  EXPECT_EQ(print(R"("\ud83d\ud83d\ude00\ude00")"), "\"\xEF\xBF\xBD\xF0\x9F\x98\x80\xEF\xBF\xBD\"");
  EXPECT_EQ(print(R"("\ud83dx")"), "\"\xEF\xBF\xBDx\"");
  EXPECT_EQ(print(R"("\ud83d")"), "\"\xEF\xBF\xBD\"");
  EXPECT_EQ(quoted("a\"\\\n\x1F"), R"("a\"\\\n\u001f")");
}

TEST(Literal, whatPythonWrites) {
  EXPECT_EQ(print("{'a': True, \"b\": None, 'c': (1, 2,), 'd': [+1_000, .5, 5.],}"),
            R"({"a":true,"b":null,"c":[1,2],"d":[1000,0.5,5.0]})");
  EXPECT_EQ(print(R"('it\'s "so"')"), R"("it's \"so\"")");
  EXPECT_EQ(print("'''a 'b' ''c\n'''"), R"("a 'b' ''c\n")");
  EXPECT_EQ(print("[\"\", '', \"\"\"\"\"\"]"), R"(["","",""])");
  EXPECT_EQ(print(R"("\d+\x41\a\U0001F600")"), "\"\\\\d+A\\u0007\xF0\x9F\x98\x80\"");
  EXPECT_EQ(print("'a\\\nb'"), R"("ab")");
}

TEST(Literal, members) {
  const char *object = R"({"a":"b","b":{"c":[1]},"c":2.5,"":""})";
  EXPECT_EQ(memberOf(object, "a"), R"("b")");
  EXPECT_EQ(memberOf(object, "b"), R"({"c":[1]})");
  EXPECT_EQ(memberOf(object, "c"), "2.5");
  EXPECT_EQ(memberOf(object, ""), R"("")");
  EXPECT_EQ(memberOf(object, "d"), std::nullopt);
  EXPECT_EQ(memberOf("{}", "a"), std::nullopt);
  EXPECT_EQ(memberOf("[\"a\",1]", "a"), std::nullopt);
}

TEST(Literal, noLiterals) {
  for (const char *text : {"",
                           " ",
                           "nul",
                           "nulll",
                           "x",
                           "1 2",
                           "01",
                           "1__0",
                           "_1",
                           "1_",
                           "--1",
                           "1e",
                           "1e+",
                           ".",
                           "-",
                           "1.2.3",
                           "1e999",
                           "-1e999",
                           "NaN",
                           "Infinity",
                           "[",
                           "]",
                           "[1",
                           "[1 2]",
                           "[,]",
                           "[1,,2]",
                           "(1]",
                           "{",
                           "{1: 2}",
                           "{\"a\"}",
                           "{\"a\" 1}",
                           "{\"a\": }",
                           "{\"a\": 1 \"b\": 2}",
                           "{,}",
                           "{a: 1}",
                           "\"",
                           "\"a",
                           "'a\"",
                           "\"\\",
                           "\"\\u12\"",
                           "\"\\uzzzz\"",
                           "'''a''",
                           "\"a\" \"b\"",
                           "f'x'",
                           "__import__('os')",
                           "{\"a\": [}"})
    EXPECT_EQ(print(text), "none") << text;
}

TEST(Literal, depthAndNumbersAreBounded) {
  const auto nested = [](int depth) {
    return std::string(size_t(depth), '[') + std::string(size_t(depth), ']');
  };
  EXPECT_EQ(print(nested(LiteralReader::kMaxDepth)), nested(LiteralReader::kMaxDepth));
  EXPECT_EQ(print(nested(LiteralReader::kMaxDepth + 1)), "none");
  EXPECT_NE(print(std::string(LiteralReader::kMaxNumber, '1')), "none");
  EXPECT_EQ(print(std::string(LiteralReader::kMaxNumber + 1, '1')), "none");
}

// Values made at random, written with random spaces, are the same values when printed.
TEST(Literal, anyValueIsPrintedAsItIs) {
  std::mt19937 random(1);
  const auto below = [&](int n) { return int(random() % uint32_t(n)); };
  const auto space = [&] { return std::string(size_t(below(3)), " \n\t\r"[below(4)]); };
  const auto string = [&] {
    std::string text = "\"";
    constexpr const char *kPieces[] = {"a",    "]",   "}",        ",",       "'", "\\\"",
                                       "\\\\", "\\n", "\xC3\xA9", "\\u0003", "`"};
    for (int i = below(6); i > 0; --i)
      text += kPieces[below(std::size(kPieces))];
    return text + "\"";
  };
  const auto value = [&](auto &self, int depth) -> std::string {
    switch (below(depth > 0 ? 7 : 5)) {
    case 0:
      return below(2) ? "true" : "false";
    case 1:
      return "null";
    case 2:
      return std::to_string(below(2000) - 1000);
    case 3:
      return std::to_string(below(2000) / 64.0 - 10) + "e" + std::to_string(below(40) - 20);
    case 4:
      return string();
    default:
      break;
    }
    const bool object = below(2);
    std::string text = object ? "{" : "[";
    const int count = below(5);
    for (int i = 0; i < count; ++i) {
      text += (i ? "," : "") + space();
      if (object)
        text += "\"k" + std::to_string(i) + "\"" + space() + ":" + space();
      text += self(self, depth - 1) + space();
    }
    return text + space() + (object ? "}" : "]");
  };
  for (int i = 0; i < 2000; ++i) {
    const std::string text = value(value, 4);
    const TestJson expected = TestJson::parse(text);
    for (const auto style : {LiteralStyle::Compact, LiteralStyle::Spaced, LiteralStyle::Indented}) {
      const std::string printed = print(space() + text + space(), style);
      EXPECT_EQ(TestJson::parse(printed), expected) << text << "\n" << printed;
      EXPECT_EQ(print(printed, style), printed);
    }
  }
}
