// For tests: reads the vocabularies and golden files of test/tokenizer.
#ifndef MOE_RUNTIME_TEXT_TESTVOCABULARY_H
#define MOE_RUNTIME_TEXT_TESTVOCABULARY_H

#include "runtime/text/Tokenizer.h"

#include <algorithm>
#include <fstream>
#include <sstream>

namespace moe {

// A vocabulary in Meta's form: lines of base64 bytes, a space, and the rank.
inline std::vector<std::string> readVocabulary(const std::string &path) {
  std::vector<std::string> tokens;
  std::ifstream file(path);
  std::string base64;
  for (size_t rank; file >> base64 >> rank;) {
    std::string bytes;
    uint32_t bits = 0;
    int count = 0;
    for (const char c : base64) {
      if (c == '=')
        break;
      const int digit = c >= 'a'   ? c - 'a' + 26
                        : c >= 'A' ? c - 'A'
                        : c >= '0' ? c - '0' + 52
                                   : (c == '/') + 62;
      bits = bits << 6 | uint32_t(digit);
      count += 6;
      if (count >= 8) {
        count -= 8;
        bytes += char(bits >> count);
      }
    }
    tokens.resize(std::max(tokens.size(), rank + 1));
    tokens[rank] = bytes;
  }
  return tokens;
}

struct Golden {
  std::string text;
  std::vector<int32_t> ids;
};

// Cases written by test/tokenizer/make-goldens.py, which says how.
inline std::vector<Golden> readGoldens(const std::string &path) {
  std::vector<Golden> goldens;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("# made by"))
      continue;
    Golden golden;
    const size_t tab = line.find('\t');
    for (size_t i = 0; i < tab; ++i)
      if (line[i] == '\\') {
        golden.text += char(std::stoi(line.substr(i + 2, 2), nullptr, 16));
        i += 3;
      } else {
        golden.text += line[i];
      }
    std::istringstream ids(line.substr(tab + 1));
    for (int32_t id; ids >> id;)
      golden.ids.push_back(id);
    goldens.push_back(std::move(golden));
  }
  return goldens;
}

// A tokenizer and the tables that it reads.
struct OwnedTokenizer {
  std::vector<std::byte> tables;
  Tokenizer tokenizer;

  static OwnedTokenizer make(const std::vector<std::string> &tokens,
                             const std::vector<Merge> &merges,
                             std::vector<SpecialToken> specials = {}, bool ignoreMerges = true) {
    auto tables = buildTokenizerTables(tokens, merges);
    assert(tables);
    auto tokenizer = Tokenizer::create(
        *tables, {uint32_t(tokens.size()), std::move(specials), ignoreMerges, false, -1});
    assert(tokenizer);
    return {std::move(*tables), std::move(*tokenizer)};
  }

  static OwnedTokenizer byRank(const std::vector<std::string> &tokens,
                               std::vector<SpecialToken> specials = {}) {
    return make(tokens, mergesByRank(tokens), std::move(specials));
  }
};

} // namespace moe

#endif
