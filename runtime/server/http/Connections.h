// All open connections of a server: who is let in, and what they share.
#ifndef MOE_RUNTIME_SERVER_HTTP_CONNECTIONS_H
#define MOE_RUNTIME_SERVER_HTTP_CONNECTIONS_H

#include "runtime/server/http/PostQueue.h"
#include "runtime/server/http/Server.h"
#include "runtime/server/http/Transport.h"

#include <boost/asio/io_context.hpp>

#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace moe::server::http {

class Connection;

// Who is at the other end.
struct Peer {
  std::string text; // for people
  std::string
      network; // what Limits::perAddress counts; empty: not counted, a socket in the file system
};

class Connections {
public:
  Connections(boost::asio::io_context &io, const Options &options, std::shared_ptr<Tls> tls,
              Handler handler, std::shared_ptr<PostQueue> posts);

  // Takes over a connected, non-blocking descriptor: a connection begins, or is told that there are
  // too many.
  void admit(int descriptor, Peer peer, size_t listener);
  void remove(const std::shared_ptr<Connection> &connection, const Peer &peer);

  // Flushes the connection at the end of this turn of the loop.
  void flushLater(std::shared_ptr<Connection> connection);
  void closeIdle(); // and all others when their answers are complete
  void closeAll();  // at once, untold
  // Calls; what it throws is reported and goes no further. False: it threw.
  template <typename Call> bool guard(Call &&call) {
    try {
      call();
      return true;
    } catch (...) {
      reportException();
      return false;
    }
  }

  std::string errorBody(int status, std::string_view message) const;
  std::string_view errorType() const {
    return options.errorBody ? "application/json" : "text/plain";
  }
  std::string newId(); // of a request that has none

  size_t size() const { return open.size(); }
  size_t answering() const;

  boost::asio::io_context &io;
  const Options options;
  const Handler handler;
  const std::shared_ptr<PostQueue> posts;
  bool keepsAlive = true; // else each answer ends its connection
  uint64_t bodies = 0;    // bytes of requests that are still arriving
  // What is read goes through here, so that an idle connection has no buffer of its own. More than
  // a record of TLS (16 KiB), which is therefore never left half inside of OpenSSL.
  std::vector<char> scratch = std::vector<char>(64 << 10);

private:
  void reportException(); // the current one
  void refuse(Transport &transport);
  void flushAll();

  const std::shared_ptr<Tls> tls;
  std::unordered_set<std::shared_ptr<Connection>> open;
  std::unordered_map<std::string, int32_t> perNetwork;
  int32_t remote = 0; // of `open`, those that count
  std::vector<std::shared_ptr<Connection>> unflushed;
  uint64_t idState = 0;
};

} // namespace moe::server::http

#endif
