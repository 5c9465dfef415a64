// JSON schemas of clients, made ready for the compiler of grammars: checked, and with their
// defaults written out.
#ifndef MOE_RUNTIME_SERVER_GRAMMARSCHEMA_H
#define MOE_RUNTIME_SERVER_GRAMMARSCHEMA_H

#include "runtime/Status.h"

#include <string>
#include <string_view>
#include <vector>

namespace moe::server {

// Ok unless brackets, as many of `open` and `close` as there are in `text`, lie more than
// `maxDepth` deep in each other. Those inside strings in `quote`, or after a backslash, do not
// count.
Status checkDepth(std::string_view text, std::string_view open, std::string_view close, char quote,
                  int maxDepth);

// Ok unless repetitions in each other, as in (a{1,1000}){1,1000}, are so many that a regular
// expression becomes too large to follow.
Status checkRepetition(std::string_view regex);

// Ok unless \x, \u or \U in an EBNF text is followed by the number of no character; xgrammar reads
// any number of digits.
Status checkEscapes(std::string_view ebnf);

// The schema `text`, with these changes:
//   - `type` is there where the keywords leave one possibility, for example `properties` an object;
//   - objects with `properties` take no others unless `additionalProperties` or the like says so,
//   as
//     models expect it; objects and arrays about which nothing is said take anything.
// With `strict` a keyword is refused that a grammar cannot promise, else it has no effect.
// References lead to places of the same schema. Error: InvalidArgument, with the place.
Result<std::string> prepareSchema(std::string_view text, bool strict, int maxDepth);

// Calls of the tools in `text` (GrammarSource::Kind::ToolCalls).
struct ToolCallTag {
  std::string tag;                 // xgrammar's structural tag
  std::vector<std::string> strict; // prepared parameters of those tools that are strict
};
struct ToolCallForm {
  bool several = false, amidText = false;
  bool strict = false; // all of them
  int mostBlanks = 0;  // bytes of white space between two parts of parameters, with amidText
};
Result<ToolCallTag> toolCallTag(std::string_view text, const ToolCallForm &form, int maxDepth);

} // namespace moe::server

#endif
