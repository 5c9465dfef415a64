// Text to print from ids that arrive one at a time.
#ifndef MOE_RUNTIME_TEXT_DETOKENIZER_H
#define MOE_RUNTIME_TEXT_DETOKENIZER_H

#include "runtime/text/Tokenizer.h"

#include <utility>

namespace moe {

// Holds a character back until its last byte is there. The concatenation of what push and flush
// return is replaceInvalidUtf8(decode(ids)), however the bytes are spread over tokens.
class Detokenizer {
public:
  // The tokenizer must outlive this object. With `skipSpecial` special tokens are left out, but for
  // those that are `shown`.
  explicit Detokenizer(const Tokenizer &tokenizer, bool skipSpecial = true,
                       std::vector<int32_t> shown = {})
      : tokenizer(&tokenizer), skipSpecial(skipSpecial), shown(std::move(shown)) {}

  // The valid UTF-8 that is complete with this id; often empty.
  std::string push(int32_t id);

  // The end of the text: U+FFFD if it stops inside a character. Ready for another text then.
  std::string flush();

private:
  const Tokenizer *tokenizer;
  bool skipSpecial;
  std::vector<int32_t> shown;
  std::string pending; // the start of a character, at most 3 bytes
};

} // namespace moe

#endif
