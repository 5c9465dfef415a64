// A reader of server-sent events, as the standard has it: what the writer is tested against.
#ifndef MOE_RUNTIME_SERVER_HTTP_TESTSSE_H
#define MOE_RUNTIME_SERVER_HTTP_TESTSSE_H

#include <string>
#include <string_view>
#include <vector>

namespace moe::server::http {

struct SseEvent {
  std::string name, data;
  bool operator==(const SseEvent &) const = default;
};

// WHATWG HTML, 9.2.6: lines end by CR LF, LF or CR; an empty line dispatches what has data.
inline std::vector<SseEvent> parseSse(std::string_view text) {
  std::vector<SseEvent> events;
  std::string name, data;
  while (!text.empty()) {
    const size_t end = text.find_first_of("\r\n");
    if (end == text.npos)
      break; // a line without an end is left out
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(
        end + (text[end] == '\r' && end + 1 < text.size() && text[end + 1] == '\n' ? 2 : 1));
    if (line.empty()) {
      if (!data.empty()) {
        data.pop_back(); // the last line feed
        events.push_back({name.empty() ? "message" : name, data});
      }
      name.clear();
      data.clear();
      continue;
    }
    const size_t colon = line.find(':');
    if (colon == 0)
      continue; // a comment
    const std::string_view field = line.substr(0, colon);
    std::string_view value = colon == line.npos ? std::string_view() : line.substr(colon + 1);
    if (value.starts_with(' '))
      value.remove_prefix(1);
    if (field == "event")
      name = value;
    else if (field == "data")
      (data += value) += '\n';
  }
  return events;
}

// What a reader makes of the ends of lines.
inline std::string withLineFeeds(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i)
    if (text[i] != '\r')
      result += text[i];
    else if (result += '\n'; i + 1 < text.size() && text[i + 1] == '\n')
      ++i;
  return result;
}

} // namespace moe::server::http

#endif
