// The form of server-sent events (WHATWG HTML, 9.2). Knows no sockets.
#ifndef MOE_RUNTIME_SERVER_HTTP_SSE_H
#define MOE_RUNTIME_SERVER_HTTP_SSE_H

#include <string>
#include <string_view>

namespace moe::server::http {

// The type of a stream's answer, and a comment that keeps proxies from closing one that waits.
inline constexpr std::string_view kEventStream = "text/event-stream";
inline constexpr std::string_view kPing = ": ping\n\n";

// One event: a line "data: " for each line of `data`, which readers join by "\n"; "\r\n" and "\r"
// end lines as well. `name` is the event's type; empty: none, which readers take for "message". Of
// a name, line ends are left out.
void appendEvent(std::string &out, std::string_view data, std::string_view name = {});

} // namespace moe::server::http

#endif
