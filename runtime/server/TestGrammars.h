// For tests: a vocabulary whose tokens cross all borders of a grammar, and random walks along
// masks.
#ifndef MOE_RUNTIME_SERVER_TESTGRAMMARS_H
#define MOE_RUNTIME_SERVER_TESTGRAMMARS_H

#include "runtime/server/Grammar.h"
#include "runtime/text/TestVocabulary.h"

#include <random>
#include <set>

namespace moe::server {

constexpr int32_t kEnd = 0, kTurn = 1; // stop tokens

// Every byte, and pieces of text such as models write: random ones, and some that begin in one part
// of JSON and end in another. Ids: two stop tokens, bytes and pieces, three special tokens, and a
// hole above.
struct TestVocabularyOfJson {
  OwnedTokenizer owned;
  int64_t vocab;
};

inline TestVocabularyOfJson jsonVocabulary(uint32_t seed, size_t pieces) {
  const std::string corpus =
      R"({"name": "get_weather", "parameters": {"city": "Oslo", "days": -12.5e3, "list": [1, 2, 3], "ok": true}})"
      "{\n  \"a\": [\n    {\"b\": null}, [[]], {}, false],\n\t\"c\\n\\u00e9\\\"\": "
      "\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\"}"
      "abcabacabaaab 0123456789 x@y.com [a-z] red green blue }}}]]] \"\"\"\"  ,,:: "
      "2024-02-29T10:11:12Z";
  std::mt19937 random(seed);
  std::set<std::string> known;
  std::vector<std::string> tokens(2); // holes, for the stop tokens
  for (int byte = 0; byte < 256; ++byte)
    tokens.push_back(std::string(1, char(byte)));
  known.insert(tokens.begin(), tokens.end());
  const auto add = [&](const std::string &piece) {
    if (known.insert(piece).second)
      tokens.push_back(piece);
  };
  for (const char *piece : {"\"}],", "\"}", "\"]", "\": ", "\", \"", "{\"", "[{\"", "}}", "]]",
                            "\\\"", "acab", "ab", "true}", "null,", "  ", "\n  "})
    add(piece);
  while (tokens.size() < pieces)
    add(corpus.substr(random() % corpus.size(), 1 + random() % 6));
  std::vector<SpecialToken> specials = {{"<|end|>", kEnd, true}, {"<|turn|>", kTurn, true}};
  for (int i = 0; i < 3; ++i)
    specials.push_back({"<|special" + std::to_string(i) + "|>", int32_t(tokens.size()) + i, true});
  const auto vocab = int64_t(tokens.size()) + 4;
  return {OwnedTokenizer::make(tokens, {}, std::move(specials)), vocab};
}

inline bool bit(std::span<const uint32_t> words, int32_t id) {
  return words[size_t(id) / 32] >> (id % 32) & 1;
}

inline std::vector<uint32_t> maskOf(GrammarMatcher &matcher, int64_t vocab) {
  std::vector<uint32_t> words(size_t(vocab + 31) / 32, ~0u);
  matcher.fillMask(words);
  return words;
}

inline std::vector<int32_t> idsOf(std::span<const uint32_t> words, int64_t vocab) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < vocab; ++id)
    if (bit(words, id))
      ids.push_back(id);
  return ids;
}

} // namespace moe::server

#endif
