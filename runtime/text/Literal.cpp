#include "runtime/text/Literal.h"

#include <charconv>
#include <cmath>

namespace moe {
namespace {

bool isSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool isDigit(char c) { return c >= '0' && c <= '9'; }
bool isWordByte(char c) {
  return isDigit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' || c == '-' ||
         c == '.' || c == '_';
}

int hexDigit(char c) {
  return isDigit(c)             ? c - '0'
         : c >= 'a' && c <= 'f' ? c - 'a' + 10
         : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                : -1;
}

// A byte of a string, as it stands between quotes.
void escapeTo(std::string &out, char c) {
  switch (c) {
  case '"':
    out += "\\\"";
    return;
  case '\\':
    out += "\\\\";
    return;
  case '\b':
    out += "\\b";
    return;
  case '\f':
    out += "\\f";
    return;
  case '\n':
    out += "\\n";
    return;
  case '\r':
    out += "\\r";
    return;
  case '\t':
    out += "\\t";
    return;
  default:
    break;
  }
  if (uint8_t(c) >= 0x20) {
    out += c;
    return;
  }
  out += "\\u00";
  out += char('0' + c / 16);
  out += "0123456789abcdef"[c % 16];
}

void utf8To(std::string &out, char32_t c) {
  if (c < 0x800) {
    out += char(0xC0 | c >> 6);
  } else {
    if (c < 0x10000) {
      out += char(0xE0 | c >> 12);
    } else {
      out += char(0xF0 | c >> 18);
      out += char(0x80 | (c >> 12 & 63));
    }
    out += char(0x80 | (c >> 6 & 63));
  }
  out += char(0x80 | (c & 63));
}

constexpr char32_t kReplacement = 0xFFFD;
bool isHigh(char32_t c) { return c >= 0xD800 && c < 0xDC00; }
bool isLow(char32_t c) { return c >= 0xDC00 && c < 0xE000; }

// As Python's repr: the shortest digits that give the same value, from 1e16 on and below 1e-4 with
// an exponent.
void printFloat(double value, std::string &out) {
  const double size = std::fabs(value);
  const bool fixed = size == 0 || (size >= 1e-4 && size < 1e16);
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value,
                                 fixed ? std::chars_format::fixed : std::chars_format::scientific);
  const std::string_view digits(buffer, size_t(end.ptr - buffer));
  out += digits;
  if (fixed && digits.find('.') == digits.npos)
    out += ".0";
}

// Integers of any size keep their digits.
bool printNumber(std::string_view word, std::string &out) {
  std::string number;
  for (size_t i = 0; i < word.size(); ++i) {
    if (word[i] == '_') { // Python's, between digits
      if (i == 0 || i + 1 == word.size() || !isDigit(word[i - 1]) || !isDigit(word[i + 1]))
        return false;
    } else if (i > 0 || word[i] != '+') {
      number += word[i];
    }
  }
  size_t at = number.starts_with('-');
  const auto digits = [&] {
    const size_t from = at;
    while (at < number.size() && isDigit(number[at]))
      ++at;
    return at - from;
  };
  const size_t first = at, whole = digits();
  if (at == number.size()) {
    if (whole == 0 || (whole > 1 && number[first] == '0'))
      return false;
    out += number == "-0" ? "0" : number;
    return true;
  }
  size_t fraction = 0;
  if (number[at] == '.') {
    ++at;
    fraction = digits();
  }
  if (whole + fraction == 0)
    return false;
  bool small = false;
  if (at < number.size() && (number[at] == 'e' || number[at] == 'E')) {
    small = ++at < number.size() && number[at] == '-';
    at += small || (at < number.size() && number[at] == '+');
    if (digits() == 0)
      return false;
  }
  if (at != number.size())
    return false;
  double value = 0;
  const auto read = std::from_chars(number.data(), number.data() + number.size(), value);
  if (read.ec == std::errc::result_out_of_range) {
    if (!small) // JSON has no infinity
      return false;
    value = number.starts_with('-') ? -0.0 : 0.0;
  }
  printFloat(value, out);
  return true;
}

// The words of both languages. Null if it is none.
const char *printedWord(std::string_view word, bool python) {
  if (word == "true" || word == "True")
    return python ? "True" : "true";
  if (word == "false" || word == "False")
    return python ? "False" : "false";
  if (word == "null" || word == "None")
    return python ? "None" : "null";
  return nullptr;
}

} // namespace

void LiteralReader::reset() { *this = LiteralReader(style); }

bool LiteralReader::inString() const {
  return state == State::Opened || state == State::String || state == State::Escape ||
         state == State::Hex;
}

LiteralReader::Step LiteralReader::push(char c, std::string &out) {
  switch (state) {
  case State::Value:
    return value(c, out);
  case State::Word: {
    if (isWordByte(c)) {
      word += c;
      return word.size() <= kMaxNumber ? Step::More : Step::Bad;
    }
    const Step step = endWord(out);
    return step == Step::More ? push(c, out) : step;
  }
  case State::Opened:
    if (c == quote) {
      state = State::OpenedTwice;
      return Step::More;
    }
    state = State::String;
    return string(c, out);
  case State::OpenedTwice: {
    if (c == quote) {
      triple = true;
      state = State::String;
      return Step::More;
    }
    return endString(out) == Step::Done ? Step::Before : push(c, out);
  }
  case State::String:
    return string(c, out);
  case State::Escape:
    return escape(c, out);
  case State::Hex: {
    const int digit = hexDigit(c);
    if (digit < 0)
      return Step::Bad;
    hex = hex << 4 | char32_t(digit);
    if (--hexLeft == 0) {
      state = State::String;
      codePoint(hex, out);
    }
    return Step::More;
  }
  case State::Key:
    if (isSpace(c))
      return Step::More;
    if (c == '}')
      return close(c, out);
    if (c != '"' && c != '\'')
      return Step::Bad;
    element(out);
    return openString(c, /*isKey=*/true, out);
  case State::Colon:
    if (isSpace(c))
      return Step::More;
    if (c != ':')
      return Step::Bad;
    state = State::Value;
    if (style == LiteralStyle::Keywords && brackets.size() == 1)
      out += '=';
    else
      out += style == LiteralStyle::Compact || style == LiteralStyle::Text ? ":" : ": ";
    return Step::More;
  case State::Next:
    if (isSpace(c))
      return Step::More;
    if (c != ',')
      return close(c, out);
    state = brackets.back() == '{' ? State::Key : State::Value;
    return Step::More;
  case State::Ended:
    break;
  }
  return Step::Bad;
}

bool LiteralReader::finish(std::string &out) {
  if (state == State::Word)
    return endWord(out) == Step::Before;
  if (state == State::OpenedTwice)
    return endString(out) == Step::Done;
  return state == State::Ended;
}

LiteralReader::Step LiteralReader::value(char c, std::string &out) {
  const bool inList = !brackets.empty() && brackets.back() != '{';
  if (isSpace(c) && !brackets.empty())
    return Step::More;
  if (inList && (c == ']' || c == ')'))
    return close(c, out);
  if (inList)
    element(out);
  if (c == '"' || c == '\'')
    return openString(c, /*isKey=*/false, out);
  if (c == '[' || c == '(' || c == '{')
    return open(c, out);
  if (!isWordByte(c) || c == '_')
    return Step::Bad;
  word = c;
  state = State::Word;
  return Step::More;
}

LiteralReader::Step LiteralReader::openString(char c, bool isKey, std::string &out) {
  quote = c;
  key = isKey;
  triple = false;
  quotes = 0;
  state = State::Opened;
  if (!plain())
    out += '"';
  return Step::More;
}

LiteralReader::Step LiteralReader::string(char c, std::string &out) {
  if (c == quote) {
    if (!triple || ++quotes == 3)
      return endString(out);
    return Step::More;
  }
  for (; quotes > 0; --quotes) // of three that did not come
    character(quote, out);
  if (c == '\\')
    state = State::Escape;
  else
    character(c, out);
  return Step::More;
}

LiteralReader::Step LiteralReader::escape(char c, std::string &out) {
  state = State::String;
  constexpr std::string_view kNames = "abfnrtv", kBytes = "\a\b\f\n\r\t\v";
  if (const size_t at = kNames.find(c); at != kNames.npos) {
    character(kBytes[at], out);
  } else if (c == 'x' || c == 'u' || c == 'U') {
    hexLeft = c == 'x' ? 2 : c == 'u' ? 4 : 8;
    hex = 0;
    state = State::Hex;
  } else if (c != '\n') { // which Python joins lines by
    if (c != '"' && c != '\'' && c != '\\' && c != '/')
      character('\\', out);
    character(c, out);
  }
  return Step::More;
}

LiteralReader::Step LiteralReader::endWord(std::string &out) {
  if (const char *text =
          printedWord(word, style == LiteralStyle::Python || style == LiteralStyle::Keywords))
    out += text;
  else if (!printNumber(word, out))
    return Step::Bad;
  return ended(Step::Before);
}

LiteralReader::Step LiteralReader::endString(std::string &out) {
  if (high)
    utf8To(out, kReplacement);
  high = 0;
  if (!plain())
    out += '"';
  if (!key)
    return ended(Step::Done);
  key = false;
  state = State::Colon;
  return Step::More;
}

LiteralReader::Step LiteralReader::ended(Step step) {
  state = brackets.empty() ? State::Ended : State::Next;
  return brackets.empty() ? step : Step::More;
}

LiteralReader::Step LiteralReader::open(char bracket, std::string &out) {
  if (brackets.size() == kMaxDepth)
    return Step::Bad;
  if (!brackets.empty() || bracket != '{' || style != LiteralStyle::Keywords)
    out += bracket == '{' ? '{' : '[';
  brackets += bracket;
  first = true;
  state = bracket == '{' ? State::Key : State::Value;
  return Step::More;
}

LiteralReader::Step LiteralReader::close(char bracket, std::string &out) {
  const char opened = brackets.back();
  if (bracket != (opened == '{' ? '}' : opened == '[' ? ']' : ')'))
    return Step::Bad;
  brackets.pop_back();
  if (style == LiteralStyle::Indented && !first)
    out.append(1, '\n').append(4 * brackets.size(), ' ');
  if (!brackets.empty() || bracket != '}' || style != LiteralStyle::Keywords)
    out += bracket == '}' ? '}' : ']';
  first = false;
  return ended(Step::Done);
}

void LiteralReader::element(std::string &out) {
  if (!first)
    out += style == LiteralStyle::Compact || style == LiteralStyle::Text ||
                   style == LiteralStyle::Indented
               ? ","
               : ", ";
  first = false;
  if (style == LiteralStyle::Indented)
    out.append(1, '\n').append(4 * brackets.size(), ' ');
}

bool LiteralReader::plain() const {
  return key ? style == LiteralStyle::Keywords && brackets.size() == 1
             : style == LiteralStyle::Text && brackets.empty();
}

void LiteralReader::character(char c, std::string &out) {
  if (high)
    utf8To(out, kReplacement);
  high = 0;
  if (plain())
    out += c;
  else
    escapeTo(out, c);
}

void LiteralReader::codePoint(char32_t c, std::string &out) {
  if (high && isLow(c))
    c = 0x10000 + ((high - 0xD800) << 10 | (c - 0xDC00));
  else if (high)
    utf8To(out, kReplacement);
  high = isHigh(c) ? c : 0;
  if (high)
    return;
  if (c < 0x80)
    character(char(c), out);
  else
    utf8To(out, isLow(c) || c > 0x10FFFF ? kReplacement : c);
}

std::optional<std::string> printLiteral(std::string_view text, LiteralStyle style) {
  while (!text.empty() && isSpace(text.front()))
    text.remove_prefix(1);
  while (!text.empty() && isSpace(text.back()))
    text.remove_suffix(1);
  std::string out;
  LiteralReader reader(style);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto step = reader.push(text[i], out);
    if (step != LiteralReader::Step::More &&
        (step != LiteralReader::Step::Done || i + 1 < text.size()))
      return std::nullopt;
  }
  if (!reader.finish(out))
    return std::nullopt;
  return out;
}

std::optional<std::string> memberOf(std::string_view object, std::string_view key) {
  const std::string name = quoted(key);
  // The literal that begins at a byte of `object`.
  const auto literalAt = [&](size_t at) {
    LiteralReader reader;
    std::string printed;
    while (at < object.size() && reader.push(object[at], printed) == LiteralReader::Step::More)
      ++at;
    return printed;
  };
  for (size_t at = 1; object.starts_with('{') && at < object.size() && object[at] == '"';) {
    const std::string member = literalAt(at);
    at += member.size() + 1;
    std::string value = literalAt(at);
    if (member == name)
      return value;
    at += value.size() + 1;
  }
  return std::nullopt;
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text)
    escapeTo(out, c);
  return out + '"';
}

} // namespace moe
