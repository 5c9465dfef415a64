// A machine of states that sees each byte once. What may be a call is held until it is one or is
// none; then it goes on as content, and the byte that decided it may begin another.
#include "runtime/text/ToolCalls.h"

#include <algorithm>
#include <utility>

namespace moe {
namespace {

constexpr std::string_view kMarkers[] = {"<|python_start|>", "<|python_end|>"};
constexpr std::string_view kTag = "<function=", kTagEnd = "</function>";

bool isSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool isQuote(char c) { return c == '"' || c == '\''; }
bool isAlphanumeric(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool isKeyByte(char c) { return isAlphanumeric(c) || c == '_' || c == '-' || c == '.' || c == '$'; }

} // namespace

ToolCallScanner::ToolCallScanner(std::vector<std::string> functions, bool several)
    : names(std::move(functions)), several(several) {
  std::sort(names.begin(), names.end());
}

void ToolCallScanner::push(std::string_view text, std::vector<ToolCallEvent> &events) {
  out = &events;
  for (const char c : text)
    byte(c);
}

void ToolCallScanner::finish(std::vector<ToolCallEvent> &events) {
  out = &events;
  for (const char c : std::exchange(mark, {}))
    scan(c);
  const bool between = state == State::Between || (state == State::List && listTold);
  if (isComplete())
    tell(State::Between);
  else if (told > 0 && between)
    held.clear();
  else
    fail();
}

//===----------------------------------------------------------------------===//
// Markers and content
//===----------------------------------------------------------------------===//

// Takes markers out of the text. A marker holds its first byte only once, so where one breaks off,
// none but the last byte can begin another.
void ToolCallScanner::byte(char c) {
  if (mark.empty() && c != '<')
    return scan(c);
  mark += c;
  for (const std::string_view marker : kMarkers) {
    if (mark == marker) {
      mark.clear();
      return foundMarker(marker);
    }
    if (marker.starts_with(mark))
      return;
  }
  mark.pop_back();
  for (const char before : std::exchange(mark, {}))
    scan(before);
  if (c == '<')
    mark = c;
  else
    scan(c);
}

void ToolCallScanner::foundMarker(std::string_view marker) {
  endTicks();
  if ((reading && literal.inString()) || fence || code) {
    for (const char c : marker) // which is talked about
      scan(c);
    return;
  }
  if (isComplete())
    tell(State::Between);
  else if (state != State::Between)
    fail();
  state = State::Between;
  last = 0;
}

void ToolCallScanner::scan(char c) {
  if (state == State::Text)
    return textByte(c);
  held += c;
  if (held.size() <= kMaxCallBytes && step(c))
    return;
  held.pop_back();
  fail();
  textByte(c);
}

void ToolCallScanner::textByte(char c) {
  if (c != '`')
    endTicks();
  if (mayBegin(c)) {
    held = c;
    begin(c);
  } else {
    content(c);
  }
}

// What was held is content.
void ToolCallScanner::fail() {
  for (const char c : std::exchange(held, {}))
    content(c);
  reading = false;
  state = State::Text;
}

void ToolCallScanner::content(char c) {
  if (c != '`')
    endTicks();
  else if (ticks++ == 0)
    ticksFirst = blank;
  if (c == '\n')
    code = fenceLine = false;
  blank = c == '\n' || (blank && c == ' ');
  last = c;
  if (out->empty() || out->back().kind != ToolCallEvent::Kind::Content)
    out->push_back({ToolCallEvent::Kind::Content, {}, -1, {}});
  out->back().text += c;
}

// A run of backticks has ended: what it opened or closed. Three at the start of a line open a
// block, unless more follow in that line.
void ToolCallScanner::endTicks() {
  if (ticks == 0)
    return;
  if (ticksFirst && ticks >= 3) {
    fence = !fence;
    fenceLine = fence;
  } else if (fenceLine) {
    fence = fenceLine = false;
  } else if (!fence) {
    code = !code;
  }
  ticks = 0;
}

//===----------------------------------------------------------------------===//
// Calls
//===----------------------------------------------------------------------===//

// Not in code, and neither in a word nor after a quote.
bool ToolCallScanner::mayBegin(char c) const {
  return (c == '[' || c == '{' || c == '<') && !names.empty() && !fence && !code &&
         !isAlphanumeric(last) && !isQuote(last) && last != '_' && last != '\\' && last != '`';
}

void ToolCallScanner::begin(char c) {
  newCall();
  listed = c == '[';
  listTold = false;
  state = listed ? State::List : c == '{' ? State::Member : State::Tag;
  if (state == State::Tag)
    word = c;
}

void ToolCallScanner::newCall() {
  nested = reading = hasArguments = false;
  name.clear();
  arguments.clear();
  word.clear();
}

// The next byte of what is held. False if it makes it no call.
bool ToolCallScanner::step(char c) {
  switch (state) {
  case State::Text:
    return false;
  case State::Between:
    if (mayBegin(c)) {
      begin(c);
      return true;
    }
    return isSpace(c) || (told > 0 && (c == ',' || c == ';'));

  case State::List:
    if (isSpace(c))
      return true;
    newCall();
    state = c == '{' ? State::Member : State::Name;
    return c == '{' || nameGoesOn(c, '(', State::Argument);
  case State::Name:
    return nameGoesOn(c, '(', State::Argument);
  case State::Argument:
    if (isSpace(c))
      return true;
    if (c == ')')
      return callEnds();
    word = c;
    state = State::Key;
    return isKeyByte(c);
  case State::Key:
    if (isKeyByte(c)) {
      word += c;
      return true;
    }
    state = State::Equals;
    [[fallthrough]];
  case State::Equals:
    if (isSpace(c))
      return true;
    arguments += (arguments.empty() ? "" : ",") + quoted(word) + ":";
    state = State::Value;
    return c == '=';
  case State::ArgumentEnd:
    if (isSpace(c))
      return true;
    state = State::Argument;
    return c == ',' || (c == ')' && callEnds());
  case State::CallEnd:
    if (isSpace(c))
      return true;
    if (c != ',' && c != ']')
      return false;
    tell(c == ',' ? State::List : State::Between);
    if (c == ',')
      held = c; // content, if no call follows
    return true;

  case State::Member:
    if (isSpace(c))
      return true;
    if (c == '}')
      return objectEnds();
    state = State::MemberKey;
    return isQuote(c) && literalGoesOn(c);
  case State::Colon:
    if (isSpace(c))
      return true;
    state = State::MemberValue;
    return c == ':';
  case State::MemberValue:
    if (reading || c != '{' || word != "function" || nested)
      return literalGoesOn(c);
    nested = true;
    state = State::Member;
    return true;
  case State::MemberEnd:
    if (isSpace(c))
      return true;
    state = State::Member;
    return c == ',' || (c == '}' && objectEnds());

  case State::Tag:
    word += c;
    if (word == kTag) {
      word.clear();
      state = State::TagName;
      return true;
    }
    return kTag.starts_with(word);
  case State::TagName:
    return nameGoesOn(c, '>', State::TagValue);
  case State::TagEnd:
    if (word.empty() && isSpace(c))
      return true;
    word += c;
    if (word == kTagEnd) {
      tell(State::Between);
      return true;
    }
    return kTagEnd.starts_with(word);

  case State::Value:
  case State::MemberKey:
  case State::TagValue:
    return literalGoesOn(c);
  }
  return false;
}

// Names of functions are any text; `end` ends one that is known.
bool ToolCallScanner::nameGoesOn(char c, char end, State then) {
  const auto from = std::lower_bound(names.begin(), names.end(), word);
  if (c == end && from != names.end() && *from == word) {
    name = word;
    state = then;
    return true;
  }
  word += c;
  const auto next = std::lower_bound(from, names.end(), word);
  return next != names.end() && next->starts_with(word);
}

// The end of a call as Python has it.
bool ToolCallScanner::callEnds() {
  arguments = '{' + arguments + '}';
  state = State::CallEnd;
  return true;
}

bool ToolCallScanner::literalGoesOn(char c) {
  if (!reading) {
    if (isSpace(c))
      return true;
    // Keys and names are compared, so they are read without their quotes.
    const bool member = state == State::MemberKey || state == State::MemberValue;
    literal = LiteralReader(member ? LiteralStyle::Text : LiteralStyle::Compact);
    printed.clear();
    opening = c;
    reading = true;
  }
  const auto result = literal.push(c, printed);
  if (result == LiteralReader::Step::More)
    return true;
  reading = false;
  if (result == LiteralReader::Step::Bad || !literalEnds())
    return false;
  return result == LiteralReader::Step::Done || step(c);
}

bool ToolCallScanner::literalEnds() {
  switch (state) {
  case State::Value:
    arguments += printed;
    state = State::ArgumentEnd;
    return true;
  case State::MemberKey:
    word = printed;
    state = State::Colon;
    return word == "name" || word == "type" || word == "function" || word == "parameters" ||
           word == "arguments";
  case State::MemberValue:
    state = State::MemberEnd;
    return memberEnds();
  default:
    arguments = printed;
    word.clear();
    state = State::TagEnd;
    return opening == '{';
  }
}

// Whether a member of an object is one that a call has. `word` is its key.
bool ToolCallScanner::memberEnds() {
  if (word == "type")
    return isQuote(opening) && printed == "function";
  if (word == "name" || word == "function") {
    if (!isQuote(opening) || !name.empty() ||
        !std::binary_search(names.begin(), names.end(), printed))
      return false;
    name = printed;
    return true;
  }
  if (hasArguments)
    return false;
  hasArguments = true;
  if (isQuote(opening)) { // JSON inside a string
    const auto inner = printLiteral(printed, LiteralStyle::Compact);
    if (!inner)
      return false;
    printed = *inner;
  }
  arguments = printed == "null" ? "{}" : printed;
  return arguments[0] == '{';
}

bool ToolCallScanner::objectEnds() {
  if (nested) {
    nested = false;
    state = State::MemberEnd;
    return true;
  }
  if (name.empty() || !hasArguments)
    return false;
  if (listed)
    state = State::CallEnd;
  else
    tell(State::Between);
  return true;
}

// Whether the call lacks at most what closes it.
bool ToolCallScanner::isComplete() const {
  return state == State::CallEnd || state == State::TagEnd ||
         (state == State::MemberEnd && !name.empty() && hasArguments);
}

void ToolCallScanner::tell(State then) {
  if (several || told == 0)
    out->push_back({ToolCallEvent::Kind::Call, std::move(arguments), told++, std::move(name)});
  held.clear();
  listTold = true;
  last = 0;
  state = then;
}

} // namespace moe
