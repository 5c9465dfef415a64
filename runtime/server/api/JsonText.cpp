#include "runtime/server/api/JsonText.h"

#include <charconv>
#include <cmath>

namespace moe::server::api {

void appendEscaped(std::string &out, std::string_view text) {
  size_t done = 0; // bytes of `text` that are in `out`
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = uint8_t(text[i]);
    if (c >= 0x20 && c != '"' && c != '\\')
      continue;
    out += text.substr(done, i - done);
    done = i + 1;
    constexpr std::string_view kBytes = "\"\\\b\f\n\r\t", kNames = "\"\\bfnrt";
    if (const size_t at = kBytes.find(char(c)); at != kBytes.npos) {
      out += '\\';
      out += kNames[at];
    } else {
      out += "\\u00";
      out += char('0' + c / 16);
      out += "0123456789abcdef"[c % 16];
    }
  }
  out += text.substr(done);
}

void appendQuoted(std::string &out, std::string_view text) {
  out += '"';
  appendEscaped(out, text);
  out += '"';
}

JsonWriter &JsonWriter::key(std::string_view name) {
  separate();
  appendQuoted(out, name);
  out += ':';
  return *this;
}

JsonWriter &JsonWriter::value(std::string_view text) {
  separate();
  appendQuoted(out, text);
  return *this;
}

JsonWriter &JsonWriter::value(double number) {
  if (!std::isfinite(number))
    return raw("null");
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), number);
  return raw({buffer, size_t(end.ptr - buffer)});
}

JsonWriter &JsonWriter::raw(std::string_view json) {
  separate();
  out += json;
  return *this;
}

JsonWriter &JsonWriter::open(char bracket) {
  separate();
  out += bracket;
  return *this;
}

JsonWriter &JsonWriter::close(char bracket) {
  out += bracket;
  return *this;
}

// A value ends in none of these characters: in the text of a string, they stand before its quote.
void JsonWriter::separate() {
  if (out.size() > start && out.back() != '{' && out.back() != '[' && out.back() != ':')
    out += ',';
}

} // namespace moe::server::api
