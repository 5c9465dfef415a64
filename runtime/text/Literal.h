// Reads literals as JSON and Python write them, from text that arrives in parts, and prints them.
#ifndef MOE_RUNTIME_TEXT_LITERAL_H
#define MOE_RUNTIME_TEXT_LITERAL_H

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace moe {

// How a literal is printed. Each form of JSON is, byte for byte, what Python's json.dumps gives for
// the value with ensure_ascii=False: keys in their order, numbers as repr has them.
enum class LiteralStyle {
  Compact,  // {"a":[1,true]}    separators=(",", ":")
  Spaced,   // {"a": [1, true]}  json.dumps without options
  Indented, // json.dumps with indent=4
  Python,   // {"a": [1, True]}
  Keywords, // a=[1, True]       the members of an object as arguments of a call
  Text,     // as Compact, but a literal that is a string alone is printed as its characters
};

// One literal: null, a boolean, a number, a string, a list or an object, in the words and the
// quotes of JSON or of Python, also mixed, as models do. Lists and objects may end in a comma, and
// a tuple is a list; the keys of objects are strings. Strings keep backslashes that begin no
// escape. Takes bytes one by one and nests at most kMaxDepth deep.
class LiteralReader {
public:
  static constexpr int kMaxDepth = 64;
  static constexpr size_t kMaxNumber = 400; // characters

  explicit LiteralReader(LiteralStyle style = LiteralStyle::Compact) : style(style) {}

  enum class Step {
    More,   // the literal goes on
    Done,   // it ended with this byte
    Before, // it ended before this byte, which is none of it: numbers, words, strings in ""
    Bad     // no literal goes on so
  };
  // Appends to `out` what can be printed. After any result but More only reset() may follow.
  // Nothing comes before a literal, not even white space.
  Step push(char c, std::string &out);

  // The end of the text: whether the literal is whole.
  bool finish(std::string &out);

  // Whether the bytes so far end inside a string.
  bool inString() const;

  void reset();

private:
  enum class State {
    Value,       // a literal, or in a list its end
    Word,        // number, true, None
    Opened,      // after the first quote of a string
    OpenedTwice, // after "", which is a string or the start of one in three quotes
    String,
    Escape, // after a backslash
    Hex,    // `hexLeft` digits of an escape
    Key,    // a key, or the object's end
    Colon,
    Next, // after an element: a comma or the end
    Ended
  };

  Step value(char c, std::string &out);
  Step openString(char c, bool isKey, std::string &out);
  Step string(char c, std::string &out);
  Step escape(char c, std::string &out);
  Step ended(Step step); // the literal, if none is around it
  Step endWord(std::string &out);
  Step endString(std::string &out);
  Step open(char bracket, std::string &out);
  Step close(char bracket, std::string &out);
  void element(std::string &out); // what goes before an element
  void character(char c, std::string &out);
  void codePoint(char32_t c, std::string &out);
  bool plain() const; // whether the string is printed without quotes

  LiteralStyle style;
  State state = State::Value;
  std::string brackets; // that are open: [ ( {
  bool first = true;    // no element yet in the innermost of them
  bool key = false;     // the string is a key
  char quote = 0;
  bool triple = false; // in three quotes
  int quotes = 0;      // of them, that have come of the end
  std::string word;
  int hexLeft = 0;
  char32_t hex = 0, high = 0; // `high`: a surrogate that waits for its other half
};

// `text` as a literal between white space, printed; nothing if it is none.
std::optional<std::string> printLiteral(std::string_view text, LiteralStyle style);

// The value of a member of an object that printLiteral printed compactly.
std::optional<std::string> memberOf(std::string_view object, std::string_view key);

// A string as JSON and Python both write it.
std::string quoted(std::string_view text);

} // namespace moe

#endif
