// How bytes go through a connected socket: as they are, or through TLS. Never waits.
#ifndef MOE_RUNTIME_SERVER_HTTP_TRANSPORT_H
#define MOE_RUNTIME_SERVER_HTTP_TRANSPORT_H

#include "runtime/Status.h"

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace moe::server::http {

struct Transfer {
  // Try again with the same bytes when the socket can be read or written, whichever it is that TLS
  // needs; Closed: the peer sends no more.
  enum class State { Done, NeedsRead, NeedsWrite, Closed, Failed };
  State state;
  size_t bytes = 0; // of Done, at least one
};

// Does not own the descriptor.
class Transport {
public:
  virtual ~Transport() = default;
  virtual Transfer read(char *data, size_t size) = 0;
  virtual Transfer write(std::string_view data) = 0;
  virtual void endWriting() = 0; // the peer reads an end after what was written
};

std::unique_ptr<Transport> makePlainTransport(int descriptor);

// Certificate and key of a server.
class Tls {
public:
  // Reads PEM files. Error: which file cannot be used and why, or that this build has no TLS.
  static Result<std::shared_ptr<Tls>> create(const std::string &certificate,
                                             const std::string &privateKey);
  virtual ~Tls() = default;
  // Null: out of memory.
  virtual std::unique_ptr<Transport> makeTransport(int descriptor) = 0;
};

} // namespace moe::server::http

#endif
