#include "runtime/server/http/Cors.h"

#include "runtime/server/http/Characters.h"

#include <algorithm>

namespace moe::server::http {

namespace {
constexpr size_t kMaxRequestHeaders = 1024; // bytes of the names that a preflight asks for

// Of the header `origin`; empty: the page may not.
std::string allowedOrigin(const std::vector<std::string> &origins, const HttpRequest &request) {
  const std::string *origin = request.header("origin");
  if (!origin)
    return {};
  for (const std::string &allowed : origins)
    if (allowed == "*" || allowed == *origin)
      return allowed;
  return {};
}
} // namespace

Status checkOrigins(const std::vector<std::string> &origins) {
  for (const std::string &origin : origins) {
    if (origin == "*")
      continue;
    const size_t scheme = origin.find("://");
    const bool clean = std::all_of(origin.begin(), origin.end(), isGraph);
    if (!clean || scheme == 0 || scheme == origin.npos || scheme + 3 == origin.size() ||
        origin.find('/', scheme + 3) != origin.npos)
      return Error{Code::InvalidArgument,
                   "'" + origin +
                       "' is no origin: expected a scheme, a host and where needed a port, "
                       "as in https://chat.example:8443, without a path, or * for all"};
  }
  return ok();
}

bool isPreflight(const HttpRequest &request) {
  return request.method == "OPTIONS" && request.header("origin") &&
         request.header("access-control-request-method");
}

Headers preflightHeaders(const std::vector<std::string> &origins, const HttpRequest &request) {
  Headers headers = corsHeaders(origins, request);
  if (allowedOrigin(origins, request).empty())
    return {};
  headers.emplace_back("access-control-allow-methods", "GET, HEAD, POST, OPTIONS");
  // Clients send headers of their own (x-stainless-os, ...), and "*" would not stand for
  // authorization.
  if (const std::string *names = request.header("access-control-request-headers");
      names && names->size() <= kMaxRequestHeaders &&
      std::all_of(names->begin(), names->end(),
                  [](char c) { return isTokenCharacter(c) || c == ',' || c == ' '; }))
    headers.emplace_back("access-control-allow-headers", *names);
  headers.emplace_back("access-control-max-age", "600");
  return headers;
}

Headers corsHeaders(const std::vector<std::string> &origins, const HttpRequest &request) {
  if (origins.empty())
    return {};
  Headers headers;
  if (std::string origin = allowedOrigin(origins, request); !origin.empty()) {
    headers.emplace_back("access-control-allow-origin", std::move(origin));
    headers.emplace_back("access-control-expose-headers", "x-request-id, retry-after");
  }
  // A cache must not give one page what another was told.
  if (std::find(origins.begin(), origins.end(), "*") == origins.end())
    headers.emplace_back("vary", "origin");
  return headers;
}

} // namespace moe::server::http
