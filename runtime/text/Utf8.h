// Decodes one UTF-8 character, with the one rule for damaged text that all of the runtime follows.
#ifndef MOE_RUNTIME_TEXT_UTF8_H
#define MOE_RUNTIME_TEXT_UTF8_H

#include <cstdint>
#include <string>
#include <string_view>

namespace moe {

// The first character of a text.
struct Utf8Char {
  enum Kind : uint8_t {
    Valid,     // `length` bytes, 1 to 4
    Invalid,   // `length` bytes that no further byte can mend, 1 to 3: one U+FFFD
    Truncated, // the text ends inside a character of which all `length` bytes are right so far
  } kind;
  uint8_t length;
  char32_t codePoint; // when Valid
};

// `text` is not empty. Overlong forms, surrogates and values past U+10FFFF are invalid, and an
// invalid run is as long as Unicode's "maximal subpart" (the rule of WHATWG, Python and Rust).
Utf8Char decodeUtf8(std::string_view text);

// `bytes` with U+FFFD for each invalid run and for a truncated end.
std::string replaceInvalidUtf8(std::string_view bytes);

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD"; // U+FFFD

} // namespace moe

#endif
