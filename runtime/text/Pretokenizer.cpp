#include "runtime/text/Pretokenizer.h"

#include "runtime/text/Utf8.h"

#include <array>
#include <cstdint>

namespace moe {
namespace {

#include "runtime/text/UnicodeTables.inc"

// A set of classes is a mask of these bits. The digits of the tables are the bits' numbers.
enum CharClass : uint8_t {
  Other = 1 << 0,
  Upper = 1 << 1,  // Lu, Lt
  Lower = 1 << 2,  // Ll
  Letter = 1 << 3, // Lm, Lo
  Mark = 1 << 4,   // M
  Number = 1 << 5, // N
  Space = 1 << 6,  // White_Space but for the next two
  Newline = 1 << 7 // \r, \n
};
using ClassSet = uint8_t;
constexpr ClassSet kCaseless = Letter | Mark; // in both halves of a word
constexpr ClassSet kNone = 0;                 // the end of the text is in no set

CharClass classOf(char32_t c) {
  return CharClass(1 << (kClasses[kBlocks[c / kBlockSize] * kBlockSize + c % kBlockSize] - '0'));
}

constexpr std::array<uint8_t, 128> makeAsciiClasses() {
  std::array<uint8_t, 128> table{};
  for (size_t c = 0; c < table.size(); ++c)
    table[c] = uint8_t(1 << (kClasses[kBlocks[0] * kBlockSize + c] - '0'));
  return table;
}
static_assert(kBlockSize == 128);
constexpr auto kAsciiClasses = makeAsciiClasses();

struct Char {
  ClassSet set;
  uint8_t length;
};

Char charAt(std::string_view text, size_t at) {
  if (at >= text.size())
    return {kNone, 0};
  const uint8_t byte = text[at];
  if (byte < 0x80)
    return {kAsciiClasses[byte], 1};
  const Utf8Char c = decodeUtf8(text.substr(at));
  if (c.kind != Utf8Char::Valid)
    return {Other, 1};
  return {ClassSet(classOf(c.codePoint)), c.length};
}

size_t skip(std::string_view text, size_t at, ClassSet set) {
  for (Char c; (c = charAt(text, at)).set & set;)
    at += c.length;
  return at;
}

// Alternative 1 without its optional ends: [Upper Caseless]* [Lower Caseless]+. 0: no match.
size_t endOfWord(std::string_view text, size_t at) {
  // If the first run stops at something that the second cannot take either, it gives characters
  // back up to its last caseless one, which is then all of the second run.
  size_t lastCaseless = 0;
  Char c;
  while ((c = charAt(text, at)).set & (Upper | kCaseless)) {
    at += c.length;
    if (c.set & kCaseless)
      lastCaseless = at;
  }
  return c.set & Lower ? skip(text, at, Lower | kCaseless) : lastCaseless;
}

// The end of an optional (?i:'s|'t|'re|'ve|'m|'ll|'d) at `at`.
size_t endOfContraction(std::string_view text, size_t at) {
  if (at + 1 >= text.size() || text[at] != '\'')
    return at;
  const auto lower = [&](size_t i) { return i < text.size() ? text[i] | 0x20 : 0; };
  const int first = lower(at + 1), second = lower(at + 2);
  switch (first) {
  case 's':
  case 't':
  case 'm':
  case 'd':
    return at + 2;
  case 'r':
  case 'v':
    return second == 'e' ? at + 3 : at;
  case 'l':
    return second == 'l' ? at + 3 : at;
  default: // the long s, U+017F, is an s in another case
    return text.substr(at + 1, 2) == "\xC5\xBF" ? at + 3 : at;
  }
}

// Alternatives 5 to 7, on a run of white space.
size_t endOfSpace(std::string_view text, size_t start) {
  size_t at = start, lastChar = start, afterNewline = start;
  for (Char c; (c = charAt(text, at)).set & (Space | Newline);) {
    lastChar = at;
    at += c.length;
    if (c.set & Newline)
      afterNewline = at;
  }
  if (afterNewline > start)
    return afterNewline;
  // The last space of several goes with what follows, unless nothing does.
  return at < text.size() && lastChar > start ? lastChar : at;
}

} // namespace

size_t endOfPiece(std::string_view text, size_t start) {
  const Char first = charAt(text, start);
  const size_t second = start + first.length;

  // Alternatives 1 and 2.
  if (first.set & ~(Number | Newline)) {
    const size_t word = first.set & (Other | Space | Mark) ? second : start;
    if (const size_t end = endOfWord(text, word))
      return endOfContraction(text, end);
    if (first.set & Mark) // not as the leading character but as the word
      return endOfContraction(text, second);
    // No caseless character and no lower case follow the upper case, or alternative 1 had matched.
    if (const size_t end = skip(text, word, Upper); end > word)
      return endOfContraction(text, end);
  }

  if (first.set & Number) {
    size_t end = second;
    for (int i = 1; i < 3; ++i)
      if (const Char c = charAt(text, end); c.set & Number)
        end += c.length;
      else
        break;
    return end;
  }

  const size_t symbols = text[start] == ' ' ? second : start;
  if (size_t end = skip(text, symbols, Other | Mark); end > symbols) {
    while (end < text.size() && (text[end] == '\r' || text[end] == '\n' || text[end] == '/'))
      ++end;
    return end;
  }
  return endOfSpace(text, start);
}

std::string_view trim(std::string_view text) {
  const auto isSpace = [](Char c, char byte) {
    // Python also strips the four separators U+001C to U+001F, which are not White_Space.
    return (c.set & (Space | Newline)) || (byte >= 0x1C && byte <= 0x1F);
  };
  while (!text.empty() && isSpace(charAt(text, 0), text[0]))
    text.remove_prefix(charAt(text, 0).length);
  while (!text.empty()) {
    size_t last = text.size() - 1; // the last character's first byte
    while (last > 0 && text.size() - last < 4 && (text[last] & 0xC0) == 0x80)
      --last;
    const Char c = charAt(text, last);
    if (last + c.length != text.size() || !isSpace(c, text[last]))
      break;
    text.remove_suffix(c.length);
  }
  return text;
}

} // namespace moe
