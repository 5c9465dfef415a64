// One request out of bytes as they come, within limits. Knows no sockets.
#ifndef MOE_RUNTIME_SERVER_HTTP_REQUESTPARSER_H
#define MOE_RUNTIME_SERVER_HTTP_REQUESTPARSER_H

#include "runtime/server/http/Server.h"

namespace moe::server::http {

// Beast's parser with what it leaves to its users: a limit on the whole header, one meaning of a
// body's length, a Host, clean values.
class RequestParser {
public:
  RequestParser(uint64_t headerLimit, uint64_t bodyLimit);
  ~RequestParser();

  // Takes bytes from the front and returns how many. The rest is to be fed again, with more behind
  // it, until the request is done or refused; after that nothing is taken.
  size_t feed(std::string_view bytes);

  bool headerDone() const;
  bool done() const;
  // Why the request is refused: a status (0: it is not) and what to tell the client.
  int refusal() const;
  std::string_view message() const;

  // Valid once the header is done; `body` grows until the request is.
  HttpRequest &request();
  bool head() const;            // the method was HEAD
  bool http11() const;          // else 1.0, which knows no chunks
  bool keepAlive() const;       // the client would send another request
  bool expectsContinue() const; // it waits for "100 Continue" before it sends the body

private:
  struct Impl;
  std::unique_ptr<Impl> impl;
};

} // namespace moe::server::http

#endif
