// Fuzzes the writer of server-sent events: what is written reads back, and no data can make an
// event, a name or a comment of its own.
#include "runtime/server/http/Sse.h"
#include "runtime/server/http/TestSse.h"

#include <cstdint>
#include <cstdlib>

using namespace moe::server::http;

// A byte for the name's length, the name, then data of events, divided by NUL.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  if (size == 0)
    return 0;
  std::string_view rest(reinterpret_cast<const char *>(bytes + 1), size - 1);
  const std::string_view name = rest.substr(0, bytes[0] % 32);
  rest.remove_prefix(name.size());
  std::string cleanName;
  for (char c : name)
    if (c != '\r' && c != '\n')
      cleanName += c;
  std::string stream;
  std::vector<SseEvent> expected;
  for (bool last = false; !last;) {
    const size_t end = rest.find('\0');
    last = end == rest.npos;
    const std::string_view data = rest.substr(0, end);
    appendEvent(stream, data, name);
    stream += kPing;
    expected.push_back({cleanName.empty() ? "message" : cleanName, withLineFeeds(data)});
    rest.remove_prefix(last ? rest.size() : end + 1);
  }
  if (parseSse(stream) != expected)
    std::abort();
  return 0;
}
