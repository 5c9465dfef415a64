// The page that a browser gets: chat.html beside this header, as it is.
#ifndef MOE_RUNTIME_SERVER_PAGE_PAGE_H
#define MOE_RUNTIME_SERVER_PAGE_PAGE_H

#include <string_view>

namespace moe::server {

extern const std::string_view chatPage;
// The value of its Content-Security-Policy: its own script and style, this server, and nothing
// else.
extern const std::string_view chatPagePolicy;

} // namespace moe::server

#endif
