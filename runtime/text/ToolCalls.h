// Finds a model's calls of functions in text that arrives in parts.
//
// Llama 4 writes calls in several forms, whatever it was asked for, and this reads all of them:
//
//   [get_weather(city="Oslo", days=2), now()]                         Python, in Meta's own format
//   {"name": "get_weather", "parameters": {"city": "Oslo"}}           JSON, also several in a row,
//   [{"name": "now", "arguments": {}}]                                in a list, or "type" first
//   <function=now>{}</function>                                       Meta's custom format
//
// each in or after the markers <|python_start|> and <|python_end|>, which are no content, or alone,
// and after text. Nothing is evaluated. A call begins a line or follows text, but never inside code
// that Markdown marks as such, and it calls a function of the request: all else stays content.
#ifndef MOE_RUNTIME_TEXT_TOOLCALLS_H
#define MOE_RUNTIME_TEXT_TOOLCALLS_H

#include "runtime/text/Literal.h"

#include <string>
#include <string_view>
#include <vector>

namespace moe {

struct ToolCallEvent {
  enum class Kind {
    Content, // `text` is more of the answer's content
    Call,    // call number `call` (0, 1, ...) is complete: `name`, and `text` its arguments
  } kind;
  std::string text; // Content: never empty. Call: a JSON object, printed compactly
  int32_t call = -1;
  std::string name;
  bool operator==(const ToolCallEvent &) const = default;
};

// For one answer. A call is told when it is complete, since one that is cut short is content: until
// then its text is held back, and so is whatever else could still become one. How the text is
// divided changes only how its content is divided. Time is linear in the text, and what is held
// back is bounded: a call longer than kMaxCallBytes or nested deeper than Literal.h allows is
// content.
class ToolCallScanner {
public:
  static constexpr size_t kMaxCallBytes = 1 << 20; // of its text

  // `names`: the functions that may be called. Without `several` calls after the first are dropped.
  explicit ToolCallScanner(std::vector<std::string> names, bool several = true);

  // Appends what the next part of the text makes certain.
  void push(std::string_view text, std::vector<ToolCallEvent> &events);

  // The end of the text. Appends what was held back: a call that lacks nothing but closing
  // brackets, or content. White space before, between and after calls is dropped.
  void finish(std::vector<ToolCallEvent> &events);

  // How many calls were told. An answer with calls and without content has a content of null.
  int32_t calls() const { return told; }

private:
  // Where the text is. In all but the first two it may be a call.
  enum class State {
    Text,
    Between, // white space at the start, or what separates calls
    // A call as Python has it, in a list:
    List,        // before an element, which may also be an object
    Name,        // of the function, with "("
    Argument,    // before an argument or ")"
    Key,         // of the argument
    Equals,      // "="
    Value,       // a literal
    ArgumentEnd, // "," or ")"
    CallEnd,     // the call is complete: "," or "]"
    // As JSON has it:
    Member,      // before a member or "}"
    MemberKey,   // a literal
    Colon,       // ":"
    MemberValue, // a literal, or the object in which "function" has the other members
    MemberEnd,   // "," or "}"
    // <function=name>{}</function>:
    Tag,
    TagName,
    TagValue, // a literal
    TagEnd,
  };

  void byte(char c);
  void foundMarker(std::string_view marker);
  void scan(char c);
  void textByte(char c);
  bool mayBegin(char c) const;
  void begin(char c);
  void newCall();
  bool step(char c);
  bool nameGoesOn(char c, char end, State then);
  bool callEnds();
  bool literalGoesOn(char c);
  bool literalEnds();
  bool memberEnds();
  bool objectEnds();
  bool isComplete() const;
  void tell(State then);
  void fail();
  void content(char c);
  void endTicks();

  std::vector<std::string> names; // sorted
  bool several;
  std::vector<ToolCallEvent> *out = nullptr; // of this push or finish
  int32_t told = 0;

  State state = State::Between;
  std::string mark; // what may become a marker
  std::string held; // what may become a call, and what separates it from the one before
  bool listed = false, listTold = false; // in a list; of which a call was told
  bool nested = false;                   // in the object of "function"
  std::string name, arguments;           // of the call, as far as they are known
  bool hasArguments = false;             // the object told them
  std::string word;                      // a name, key or tag, as far as it has come
  LiteralReader literal;
  bool reading = false; // the literal has begun,
  char opening = 0;     // with this byte
  std::string printed;  // of the literal

  // Code as Markdown marks it.
  bool fence = false;      // in a fenced block
  bool fenceLine = false;  // in the line that opened it
  bool code = false;       // in a line, between backticks
  bool blank = true;       // nothing but spaces so far in this line
  int ticks = 0;           // that the content ends with
  bool ticksFirst = false; // they begin the line
  char last = 0;           // byte of the content; 0: none, or a marker or call came since
};

} // namespace moe

#endif
