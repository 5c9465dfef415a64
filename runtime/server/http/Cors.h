// Which web pages may call: the headers by which browsers ask, and are told (the Fetch standard,
// CORS).
#ifndef MOE_RUNTIME_SERVER_HTTP_CORS_H
#define MOE_RUNTIME_SERVER_HTTP_CORS_H

#include "runtime/server/http/Server.h"

namespace moe::server::http {

// Error: an origin that no browser can send.
Status checkOrigins(const std::vector<std::string> &origins);

// A browser asks before it sends a request of a page.
bool isPreflight(const HttpRequest &request);
// What such a question is answered with; nothing where the page may not.
Headers preflightHeaders(const std::vector<std::string> &origins, const HttpRequest &request);
// What an answer says so that the page may read it. Never that credentials may be sent along.
Headers corsHeaders(const std::vector<std::string> &origins, const HttpRequest &request);

} // namespace moe::server::http

#endif
