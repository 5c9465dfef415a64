// Splits PTX text, skipping blanks and comments.
#include "runtime/device/ptxsim/Lexer.h"

#include <bit>
#include <cctype>
#include <cstdlib>
#include <string>

namespace moe::ptxsim {

static bool isWordStart(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' ||
         c == '.';
}
static bool isWordPart(char c) {
  return isWordStart(c) || std::isdigit(static_cast<unsigned char>(c));
}

void Lexer::skipBlanks() {
  while (at < text.size()) {
    if (peek() == '\n') {
      ++line, ++at;
    } else if (std::isspace(static_cast<unsigned char>(peek()))) {
      ++at;
    } else if (peek() == '/' && peek(1) == '/') {
      while (at < text.size() && peek() != '\n')
        ++at;
    } else if (peek() == '/' && peek(1) == '*') {
      at += 2;
      while (at < text.size() && !(peek() == '*' && peek(1) == '/'))
        line += text[at++] == '\n';
      at = at + 2 < text.size() ? at + 2 : text.size();
    } else {
      return;
    }
  }
}

Token Lexer::word() {
  size_t start = at;
  for (;;) {
    while (isWordPart(peek()))
      ++at;
    // "shared::cluster", but not the colon of a label.
    if (peek() != ':' || peek(1) != ':' || !isWordPart(peek(2)))
      break;
    at += 2;
  }
  Token token;
  token.kind = Token::Word;
  token.text = text.substr(start, at - start);
  return token;
}

Token Lexer::number() {
  Token token;
  size_t start = at;
  char form = char(std::tolower(static_cast<unsigned char>(peek(1))));
  if (peek() == '0' && (form == 'f' || form == 'd')) {
    size_t digits = form == 'f' ? 8 : 16;
    at += 2;
    for (size_t i = 0; i < digits; ++i, ++at) {
      if (!std::isxdigit(static_cast<unsigned char>(peek()))) {
        token.kind = Token::Bad;
        return token;
      }
      char c = char(std::tolower(static_cast<unsigned char>(peek())));
      token.value = token.value << 4 | uint64_t(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    token.kind = Token::Float;
    token.single = form == 'f';
  } else {
    bool hex = peek() == '0' && form == 'x';
    while (
        std::isalnum(static_cast<unsigned char>(peek())) ||
        (!hex && (peek() == '.' ||
                  ((peek() == '+' || peek() == '-') &&
                   std::tolower(static_cast<unsigned char>(text[at - 1])) == 'e' && at > start))))
      ++at;
    std::string digits(text.substr(start, at - start));
    char *end = nullptr;
    if (!hex && digits.find_first_of(".eE") != std::string::npos) {
      token.kind = Token::Float;
      token.value = std::bit_cast<uint64_t>(std::strtod(digits.c_str(), &end));
    } else {
      token.kind = Token::Integer;
      bool binary = form == 'b' && peek(0) != 0 && digits.size() > 2 && digits[0] == '0';
      token.value = binary ? std::strtoull(digits.c_str() + 2, &end, 2)
                           : std::strtoull(digits.c_str(), &end, 0);
      if (end && *end == 'U')
        ++end;
    }
    if (!end || *end)
      token.kind = Token::Bad;
  }
  token.text = text.substr(start, at - start);
  return token;
}

Token Lexer::next() {
  skipBlanks();
  Token token;
  uint32_t start = line;
  if (at >= text.size()) {
    token.kind = Token::End;
  } else if (isWordStart(peek())) {
    token = word();
  } else if (std::isdigit(static_cast<unsigned char>(peek()))) {
    token = number();
  } else if (peek() == '"') {
    size_t end = text.find('"', at + 1);
    if (end == std::string_view::npos) {
      token.kind = Token::Bad;
      at = text.size();
    } else {
      token.kind = Token::Text;
      token.text = text.substr(at + 1, end - at - 1);
      for (char c : token.text)
        line += c == '\n';
      at = end + 1;
    }
  } else {
    bool known = std::string_view(",;:{}[]()<>|!@+-=").find(peek()) != std::string_view::npos;
    token.kind = known ? Token::Mark : Token::Bad;
    token.mark = peek();
    token.text = text.substr(at++, 1);
  }
  token.line = start;
  return token;
}

} // namespace moe::ptxsim
