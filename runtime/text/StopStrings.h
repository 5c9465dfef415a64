// Finds stop strings in text that arrives in parts.
#ifndef MOE_RUNTIME_TEXT_STOPSTRINGS_H
#define MOE_RUNTIME_TEXT_STOPSTRINGS_H

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

// The text stops before the stop string that is complete first and, of several that end at the same
// byte, the longest. How the text is divided makes no difference. Time per byte is that of a
// comparison for each stop string.
class StopStrings {
public:
  // Empty strings are ignored.
  explicit StopStrings(std::vector<std::string> stops);

  // The text that is now known not to belong to a stop string; what could be the start of one is
  // held back. After a match nothing is returned any more.
  std::string push(std::string_view text);

  // The end of the text: what was held back, if there was no match.
  std::string flush();

  // The stop string that was found, or null.
  const std::string *match() const { return found == kNone ? nullptr : &stops[found].text; }

  // Ready for another text.
  void reset();

private:
  struct Stop {
    std::string text;
    std::vector<size_t>
        fallback;       // [i]: longest proper suffix of the first i bytes that is a prefix
    size_t matched = 0; // bytes of `text` that the pushed text ends with
  };

  std::vector<Stop> stops;
  std::string held; // the pushed text's end, as long as the longest `matched`
  static constexpr size_t kNone = ~size_t(0);
  size_t found = kNone; // index into `stops`
};

} // namespace moe

#endif
