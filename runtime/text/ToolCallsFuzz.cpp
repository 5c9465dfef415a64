// Feeds arbitrary text to a ToolCallScanner, whole and in parts. The first byte says how large the
// parts are.
#include "runtime/text/ToolCalls.h"

#include <cstdint>
#include <cstdlib>

using namespace moe;

namespace {

struct Answer {
  std::string content;
  std::vector<ToolCallEvent> calls;
  bool operator==(const Answer &) const = default;
};

Answer scan(std::string_view text, size_t part) {
  ToolCallScanner scanner({"a", "f", "get_weather", "now"});
  Answer answer;
  std::vector<ToolCallEvent> events;
  const auto take = [&] {
    for (const ToolCallEvent &event : events)
      if (event.kind == ToolCallEvent::Kind::Content)
        answer.content += event.text;
      else
        answer.calls.push_back(event);
    events.clear();
  };
  for (size_t at = 0; at < text.size(); at += part) {
    scanner.push(text.substr(at, part), events);
    take();
  }
  scanner.finish(events);
  take();
  return answer;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0)
    return 0;
  const std::string_view text(reinterpret_cast<const char *>(data + 1), size - 1);
  const Answer whole = scan(text, size);
  if (scan(text, data[0] % 16 + 1) != whole)
    std::abort();
  for (const ToolCallEvent &call : whole.calls)
    if (printLiteral(call.text, LiteralStyle::Compact) != call.text)
      std::abort(); // arguments are JSON already
  return 0;
}
