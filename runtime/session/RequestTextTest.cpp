// The text of a request, token by token, against the text of all tokens at once.
#include "runtime/session/RequestText.h"

#include "runtime/text/TestVocabulary.h"
#include "runtime/text/Utf8.h"

#include <gtest/gtest.h>
#include <random>

using namespace moe;

namespace {

// Single bytes at 0 to 255, then some words, then special tokens.
constexpr int32_t kEnd = 300, kStart = 301, kWords = 256;

const Tokenizer &tokenizer() {
  static const auto owned = [] {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte)
      tokens.push_back(std::string(1, char(byte)));
    for (const char *word : {"ab", "abc", "bca", "\xE6\x97", "\x97\xA5", "\n\n"})
      tokens.push_back(word);
    return OwnedTokenizer::make(tokens, {}, {{"<|end|>", kEnd, true}, {"<|start|>", kStart, true}});
  }();
  return owned.tokenizer;
}

struct Text {
  std::string text, stop;
  bool operator==(const Text &) const = default;
};

// Each part that comes is whole characters; after a stop nothing comes any more.
Text stream(const std::vector<int32_t> &ids, const RequestTextOptions &options) {
  RequestText request(&tokenizer(), options);
  Text result;
  bool stopped = false;
  const auto add = [&](const std::string &part) {
    EXPECT_EQ(replaceInvalidUtf8(part), part);
    EXPECT_TRUE(!stopped || part.empty());
    result.text += part;
    stopped = request.match();
  };
  for (int32_t id : ids)
    add(request.push(id));
  add(request.finish());
  add(request.finish());
  result.stop = request.match() ? *request.match() : "";
  return result;
}

std::vector<int32_t> idsOf(std::string_view text) {
  std::vector<int32_t> ids;
  for (char c : text)
    ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

TEST(RequestText, HoldsBackWhatMayBeAStopString) {
  RequestText request(&tokenizer(), {.stopStrings = {"\n\n"}});
  EXPECT_EQ(request.push('a'), "a");
  EXPECT_EQ(request.push('\n'), "");
  EXPECT_EQ(request.push('b'), "\nb");
  EXPECT_EQ(request.push('\n'), "");
  EXPECT_EQ(request.match(), nullptr);
  EXPECT_EQ(request.push('\n'), "");
  ASSERT_NE(request.match(), nullptr);
  EXPECT_EQ(*request.match(), "\n\n");
  EXPECT_EQ(request.push('c'), "");
  EXPECT_EQ(request.finish(), "");
}

TEST(RequestText, KeepsTheStopStringWhereAsked) {
  EXPECT_EQ(stream(idsOf("one END two"), {.stopStrings = {"END"}}), (Text{"one ", "END"}));
  EXPECT_EQ(stream(idsOf("one END two"), {.stopStrings = {"END"}, .includeStop = true}),
            (Text{"one END", "END"}));
  EXPECT_EQ(stream(idsOf("one EN"), {.stopStrings = {"END"}, .includeStop = true}),
            (Text{"one EN", ""}));
  // A stop string that only the end of the text completes.
  EXPECT_EQ(stream({'a', 0xE6}, {.stopStrings = {"\uFFFD"}}), (Text{"a", "\uFFFD"}));
  EXPECT_EQ(stream({'a', 0xE6}, {.stopStrings = {"\uFFFD"}, .includeStop = true}),
            (Text{"a\uFFFD", "\uFFFD"}));
}

TEST(RequestText, LooksForStopStringsAfterTheLeastTokens) {
  EXPECT_EQ(stream(idsOf("xx xx"), {.stopStrings = {"x"}, .minTokens = 2}), (Text{"xx ", "x"}));
  EXPECT_EQ(stream(idsOf("xx xx"), {.stopStrings = {"xx"}, .minTokens = 1}), (Text{"xx ", "xx"}));
  EXPECT_EQ(stream(idsOf("xxx"), {.stopStrings = {"x"}, .minTokens = 9}), (Text{"xxx", ""}));
  EXPECT_EQ(stream({0xE6}, {.stopStrings = {"\uFFFD"}, .minTokens = 9}), (Text{"\uFFFD", ""}));
}

TEST(RequestText, ShowsTheSpecialTokensThatItIsTo) {
  const std::vector<int32_t> ids{kStart, 'a', kEnd, 'b'};
  EXPECT_EQ(stream(ids, {}).text, "ab");
  EXPECT_EQ(stream(ids, {.shown = {kEnd}}).text, "a<|end|>b");
  EXPECT_EQ(stream(ids, {.skipSpecial = false}).text, "<|start|>a<|end|>b");
  EXPECT_EQ(stream(ids, {.stopStrings = {"<|end|>"}, .shown = {kEnd}}), (Text{"a", "<|end|>"}));
  EXPECT_EQ(stream(ids, {.stopStrings = {"<|end|>"}}), (Text{"ab", ""}));
}

TEST(RequestText, HasNoneWithoutATokenizer) {
  RequestText request(nullptr, {.stopStrings = {"a"}});
  EXPECT_EQ(request.push('a'), "");
  EXPECT_EQ(request.finish(), "");
  EXPECT_EQ(request.match(), nullptr);
}

TEST(RequestText, EqualsASearchInTheWholeText) {
  std::mt19937 random(5);
  const auto word = [&] {
    std::string text(random() % 5, ' ');
    for (char &c : text)
      c = "abc\n"[random() % 4];
    return random() % 8 ? text : std::string("\u65E5");
  };
  int stopped = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<int32_t> ids;
    while (random() % 20)
      ids.push_back(random() % 5 == 0   ? kEnd + int32_t(random() % 2)
                    : random() % 3 == 0 ? kWords + int32_t(random() % 6)
                                        : "abc\n"[random() % 4]);
    RequestTextOptions options;
    options.stopStrings = {word(), word(), word()};
    options.includeStop = random() % 2;
    options.skipSpecial = random() % 2;
    if (random() % 2)
      options.shown = {kEnd};

    std::vector<int32_t> printed;
    for (int32_t id : ids)
      if (!options.skipSpecial || id < kEnd || (id == kEnd && !options.shown.empty()))
        printed.push_back(id);
    const std::string whole = replaceInvalidUtf8(tokenizer().decode(printed, false));
    size_t end = std::string::npos;
    std::string stop;
    for (const std::string &each : options.stopStrings)
      if (size_t at = each.empty() ? std::string::npos : whole.find(each);
          at != std::string::npos &&
          (at + each.size() < end || (at + each.size() == end && each.size() > stop.size())))
        end = at + each.size(), stop = each;
    const Text expected{end == std::string::npos
                            ? whole
                            : whole.substr(0, options.includeStop ? end : end - stop.size()),
                        stop};
    ASSERT_EQ(stream(ids, options), expected) << whole;
    stopped += !stop.empty();
  }
  EXPECT_GT(stopped, 500);
}

} // namespace
