// The bytes of an answer: status line, headers, chunks.
#ifndef MOE_RUNTIME_SERVER_HTTP_RESPONSE_H
#define MOE_RUNTIME_SERVER_HTTP_RESPONSE_H

#include "runtime/server/http/Server.h"

#include <optional>

namespace moe::server::http {

// "Not Found" of 404; "Unknown" of a status without a name.
std::string_view reasonOf(int status);

struct ResponseHead {
  int status = 200;
  std::string_view contentType; // empty: none
  std::optional<uint64_t>
      length; // of the body; nothing: chunked, or, of `untilClose`, to the connection's end
  bool untilClose = false;
  bool keepAlive = true;
  bool http11 = true;
};

// Status line and headers with the empty line that ends them. Names that are no tokens are left
// out, and control characters in values become spaces. A header that `head` decides is left out of
// `headers`.
void appendHead(std::string &out, const ResponseHead &head, const Headers &headers);

// One chunk of a chunked body; nothing for empty data, which would end the body.
void appendChunk(std::string &out, std::string_view data);
void appendLastChunk(std::string &out);

} // namespace moe::server::http

#endif
