#include "runtime/text/Detokenizer.h"

#include "runtime/text/Utf8.h"

#include <algorithm>
#include <utility>

namespace moe {

std::string Detokenizer::push(int32_t id) {
  if (skipSpecial && tokenizer->isSpecial(id) &&
      std::find(shown.begin(), shown.end(), id) == shown.end())
    return {};
  pending += tokenizer->bytes(id);

  // Only the last three bytes can be the start of a character that is not complete.
  size_t end = pending.size();
  for (size_t back = 1; back <= 3 && back <= pending.size(); ++back) {
    const size_t start = pending.size() - back;
    if (decodeUtf8(std::string_view(pending).substr(start)).kind == Utf8Char::Truncated)
      end = start;
  }
  std::string text = replaceInvalidUtf8(std::string_view(pending).substr(0, end));
  pending.erase(0, end);
  return text;
}

std::string Detokenizer::flush() { return replaceInvalidUtf8(std::exchange(pending, {})); }

} // namespace moe
