// Llama 4's tokenizer: text to ids and back, equal to Hugging Face's `tokenizers`.
//
// Text is cut at special tokens, the rest into pieces (Pretokenizer.h), and each piece is encoded
// by byte-pair merges (BytePairs.h). The vocabulary is used in place, out of a plan;
// TokenizerTables.h describes its bytes and builds them. A Tokenizer is constant once created: any
// number of threads may use it.
#ifndef MOE_RUNTIME_TEXT_TOKENIZER_H
#define MOE_RUNTIME_TEXT_TOKENIZER_H

#include "runtime/Status.h"
#include "runtime/text/TokenizerTables.h"

#include <bitset>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

// A token that stands for a whole string of the text and takes no part in merges.
struct SpecialToken {
  std::string content;
  int32_t id = 0;
  bool special = true; // false: part of ordinary text, which any text may contain
  bool operator==(const SpecialToken &) const = default;
};

struct TokenizerSettings {
  uint32_t vocabSize = 0; // as the tables; special tokens may lie in its holes or above
  std::vector<SpecialToken> specials;
  bool ignoreMerges = false; // a piece that is a token is taken whole, without merging
  bool addBos = false;       // for the caller: a prompt starts with `bos`
  int32_t bos = -1;          // -1: none
};

class Tokenizer {
public:
  // `tables` is not copied and must outlive the tokenizer. Everything is verified. Error:
  // InvalidPlan.
  static Result<Tokenizer> create(std::span<const std::byte> tables, TokenizerSettings settings);

  // Appends the ids of `text` (any bytes; BOS is the caller's). Special tokens in the text become
  // their ids, leftmost first and the longest of those; with `parseSpecial` false only those that
  // are not `special` do, and the others are ordinary text. Linear in the text but for a single
  // piece of n bytes, O(n log n).
  void encode(std::string_view text, std::vector<int32_t> &out, bool parseSpecial = true) const;

  // The bytes that an id stands for, the content of a special token; empty for an unknown id.
  // Tokens may hold parts of characters: to print, see Detokenizer.h.
  std::string_view bytes(int32_t id) const;

  // All bytes of `ids`, unchanged: decode(encode(x)) == x for any x. `skipSpecial` leaves out the
  // special tokens.
  std::string decode(std::span<const int32_t> ids, bool skipSpecial) const;

  // The id of a special token by content, or -1.
  int32_t special(std::string_view content) const;
  // Whether decode skips this id.
  bool isSpecial(int32_t id) const;

  // Where the next special token of `text` is, from `start` on; length 0 and begin at the end of
  // the text if there is none.
  struct SpecialMatch {
    size_t begin, length;
    int32_t id;
  };
  SpecialMatch nextSpecial(std::string_view text, size_t start, bool parseSpecial = true) const;

  uint32_t vocabSize() const { return tables.vocabSize(); }
  bool addBos() const { return prependsBos; }
  int32_t bos() const { return bosId; }

private:
  // Special tokens sorted by content, to be matched against text.
  struct Matcher {
    std::vector<SpecialToken> tokens;
    std::bitset<256> firstBytes;

    void add(SpecialToken token);
    const SpecialToken *longestPrefix(std::string_view text) const;
  };

  explicit Tokenizer(TokenizerTables tables) : tables(tables) {}
  const SpecialToken *specialById(int32_t id) const;
  void encodeOrdinary(std::string_view text, std::vector<int32_t> &out) const;

  TokenizerTables tables;
  Matcher all, ordinary;      // `ordinary`: those that are not `special`
  std::vector<uint32_t> byId; // indices into all.tokens, sorted by id
  bool ignoreMerges = false, prependsBos = false;
  int32_t bosId = -1;
};

// The ids of a prompt that is not a conversation: BOS where the tokenizer asks for one and the text
// does not begin with it, then the text, whose special tokens count as such.
std::vector<int32_t> encodePrompt(const Tokenizer &tokenizer, std::string_view text);

} // namespace moe

#endif
