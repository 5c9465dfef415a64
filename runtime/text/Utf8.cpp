#include "runtime/text/Utf8.h"

namespace moe {

Utf8Char decodeUtf8(std::string_view text) {
  const uint8_t lead = text[0];
  if (lead < 0x80)
    return {Utf8Char::Valid, 1, lead};
  if (lead < 0xC2 || lead > 0xF4)
    return {Utf8Char::Invalid, 1, 0};

  // Only the second byte has a range that depends on the lead: there overlong forms (E0, F0),
  // surrogates (ED) and values past U+10FFFF (F4) show.
  const uint8_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  char32_t codePoint = lead & (0xFF >> (length + 1));
  for (uint8_t i = 1; i < length; ++i) {
    if (i == text.size())
      return {Utf8Char::Truncated, i, 0};
    const uint8_t byte = text[i];
    if (byte < low || byte > high)
      return {Utf8Char::Invalid, i, 0};
    codePoint = codePoint << 6 | (byte & 0x3F);
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Char::Valid, length, codePoint};
}

std::string replaceInvalidUtf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const Utf8Char c = decodeUtf8(bytes);
    out += c.kind == Utf8Char::Valid ? bytes.substr(0, c.length) : kReplacementCharacter;
    bytes.remove_prefix(c.length);
  }
  return out;
}

} // namespace moe
