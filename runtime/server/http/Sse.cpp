#include "runtime/server/http/Sse.h"

#include <algorithm>

namespace moe::server::http {

void appendEvent(std::string &out, std::string_view data, std::string_view name) {
  if (!name.empty()) {
    out += "event: ";
    for (char c : name)
      if (c != '\r' && c != '\n')
        out += c;
    out += '\n';
  }
  for (;;) {
    const size_t end = std::min(data.find_first_of("\r\n"), data.size());
    out += "data: ";
    out += data.substr(0, end);
    out += '\n';
    if (end == data.size())
      break;
    data.remove_prefix(end + (data.substr(end).starts_with("\r\n") ? 2 : 1));
  }
  out += '\n';
}

} // namespace moe::server::http
