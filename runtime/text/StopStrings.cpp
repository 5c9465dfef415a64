#include "runtime/text/StopStrings.h"

#include <algorithm>
#include <utility>

namespace moe {

// The automaton of Knuth, Morris and Pratt: how much of a stop string the text ends with, once
// `byte` is added to text that ends with `matched` bytes of it.
static size_t advance(const std::string &stop, const std::vector<size_t> &fallback, size_t matched,
                      char byte) {
  while (matched > 0 && (matched == stop.size() || stop[matched] != byte))
    matched = fallback[matched];
  return stop[matched] == byte ? matched + 1 : 0;
}

StopStrings::StopStrings(std::vector<std::string> texts) {
  for (std::string &text : texts) {
    if (text.empty())
      continue;
    std::vector<size_t> fallback{0, 0};
    for (size_t i = 1; i < text.size(); ++i)
      fallback.push_back(advance(text, fallback, fallback[i], text[i]));
    stops.push_back({std::move(text), std::move(fallback)});
  }
}

std::string StopStrings::push(std::string_view text) {
  if (found != kNone)
    return {};
  if (text.empty())
    return {};
  size_t longest = 0; // of the stop strings' starts that the text ends with
  for (const char byte : text) {
    held += byte;
    longest = 0;
    for (size_t i = 0; i < stops.size(); ++i) {
      Stop &stop = stops[i];
      stop.matched = advance(stop.text, stop.fallback, stop.matched, byte);
      longest = std::max(longest, stop.matched);
      if (stop.matched == stop.text.size() &&
          (found == kNone || stop.matched > stops[found].text.size()))
        found = i;
    }
    if (found != kNone) {
      held.resize(held.size() - stops[found].text.size());
      return std::exchange(held, {});
    }
  }
  std::string released = held.substr(0, held.size() - longest);
  held.erase(0, released.size());
  return released;
}

std::string StopStrings::flush() { return std::exchange(held, {}); }

void StopStrings::reset() {
  held.clear();
  found = kNone;
  for (Stop &stop : stops)
    stop.matched = 0;
}

} // namespace moe
