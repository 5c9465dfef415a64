// PTX text to tokens. A word keeps its dots, so that "ld.global.b32" and "%tid.x" are one token.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_LEXER_H
#define MOE_RUNTIME_DEVICE_PTXSIM_LEXER_H

#include <cstdint>
#include <string_view>

namespace moe::ptxsim {

struct Token {
  enum Kind : uint8_t { End, Word, Integer, Float, Text, Mark, Bad };
  Kind kind = End;
  char mark = 0; // of a Mark: one of ,;:{}[]()<>|!@+-=
  uint32_t line = 0;
  std::string_view text;
  uint64_t value = 0;  // of an Integer, or the bits of a Float, as a double unless `single`
  bool single = false; // 0f3F800000

  bool is(char c) const { return kind == Mark && mark == c; }
  bool is(std::string_view word) const { return kind == Word && text == word; }
};

class Lexer {
public:
  explicit Lexer(std::string_view text) : text(text) {}
  Token next();

private:
  void skipBlanks();
  Token word();
  Token number();
  char peek(size_t ahead = 0) const { return at + ahead < text.size() ? text[at + ahead] : 0; }

  std::string_view text;
  size_t at = 0;
  uint32_t line = 1;
};

} // namespace moe::ptxsim

#endif
