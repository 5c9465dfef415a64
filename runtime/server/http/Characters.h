// Which characters may stand where in a header (RFC 9110), whatever the locale.
#ifndef MOE_RUNTIME_SERVER_HTTP_CHARACTERS_H
#define MOE_RUNTIME_SERVER_HTTP_CHARACTERS_H

#include <algorithm>
#include <string_view>

namespace moe::server::http {

inline bool isDigit(char c) { return c >= '0' && c <= '9'; }

inline char lowerCase(char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; }

// What must not be in a value: all below the space but tab, and delete.
inline bool isControl(char c) { return ((unsigned char)c < ' ' && c != '\t') || c == '\x7f'; }

// Letters, digits and marks: visible ASCII.
inline bool isGraph(char c) { return c > ' ' && c < '\x7f'; }

inline bool isTokenCharacter(char c) {
  return isGraph(c) && std::string_view("()<>@,;:\\\"/[]?={}").find(c) == std::string_view::npos;
}

inline bool isToken(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), isTokenCharacter);
}

inline bool equalsIgnoringCase(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lowerCase(x) == lowerCase(y); });
}

} // namespace moe::server::http

#endif
