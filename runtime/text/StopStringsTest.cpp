#include "runtime/text/StopStrings.h"

#include <gtest/gtest.h>

#include <random>

using namespace moe;

// The text that comes out and the stop string, when `text` arrives in parts of up to `part` bytes.
static std::pair<std::string, std::string> run(StopStrings &stops, std::string_view text,
                                               size_t part) {
  std::string out;
  stops.reset();
  for (; !text.empty(); text.remove_prefix(std::min(part, text.size())))
    out += stops.push(text.substr(0, part));
  out += stops.flush();
  return {out, stops.match() ? *stops.match() : ""};
}

TEST(StopStrings, holdsBackOnlyWhatMayBeAStop) {
  StopStrings stops({"\nUser:", "END"});
  EXPECT_EQ(stops.push("hello"), "hello");
  EXPECT_EQ(stops.push("\nUs"), "");
  EXPECT_EQ(stops.push("e\nU"), "\nUse");
  EXPECT_EQ(stops.match(), nullptr);
  EXPECT_EQ(stops.push("ser: hi"), "");
  ASSERT_NE(stops.match(), nullptr);
  EXPECT_EQ(*stops.match(), "\nUser:");
  EXPECT_EQ(stops.push("more"), "");
  EXPECT_EQ(stops.flush(), "");
}

TEST(StopStrings, flushReleasesTheRest) {
  StopStrings stops({"END"});
  EXPECT_EQ(stops.push("the EN"), "the ");
  EXPECT_EQ(stops.flush(), "EN");
}

TEST(StopStrings, noneAndEmpty) {
  StopStrings none({});
  EXPECT_EQ(none.push("abc"), "abc");
  EXPECT_EQ(none.push(""), "");
  StopStrings empty({"", "x"});
  EXPECT_EQ(empty.push("abc"), "abc");
  EXPECT_EQ(empty.match(), nullptr);
}

TEST(StopStrings, firstToEndThenLongest) {
  StopStrings stops({"c", "abc", "bcd"});
  EXPECT_EQ(run(stops, "xabcd", 1), std::pair(std::string("x"), std::string("abc")));
  EXPECT_EQ(run(stops, "xbcd", 4), std::pair(std::string("xb"), std::string("c")));
}

// Compared with a search of the whole text, on a small alphabet, in parts of all sizes.
TEST(StopStrings, equalsASearchHoweverTheTextIsDivided) {
  std::mt19937 random(1);
  const auto word = [&](size_t most) {
    std::string text(random() % (most + 1), ' ');
    for (char &c : text)
      c = char('a' + random() % 2);
    return text;
  };
  for (int i = 0; i < 2000; ++i) {
    const std::vector<std::string> list{word(5), word(4), word(6)};
    const std::string text = word(24);
    size_t bestEnd = std::string::npos;
    std::string best;
    for (const std::string &stop : list)
      if (const size_t at = stop.empty() ? std::string::npos : text.find(stop);
          at != std::string::npos) {
        const size_t end = at + stop.size();
        if (end < bestEnd || (end == bestEnd && stop.size() > best.size()))
          bestEnd = end, best = stop;
      }
    const std::string expected = best.empty() ? text : text.substr(0, bestEnd - best.size());
    StopStrings stops(list);
    for (const size_t part : {1, 2, 3, 7, 100})
      ASSERT_EQ(run(stops, text, part), std::pair(expected, best)) << text;
  }
}
