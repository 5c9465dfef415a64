// A socket that takes connections: of an address and port, or in the file system.
#ifndef MOE_RUNTIME_SERVER_HTTP_LISTENER_H
#define MOE_RUNTIME_SERVER_HTTP_LISTENER_H

#include "runtime/server/http/Connections.h"

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

namespace moe::server::http {

class Listener {
public:
  // Binds and listens: one socket for each address that the host's name stands for.
  static Result<std::vector<std::unique_ptr<Listener>>>
  open(Connections &connections, const Endpoint &endpoint, size_t index);
  ~Listener();

  void start(); // takes connections from here on
  // Hands out what the system has already accepted, then refuses more.
  void close();
  uint16_t port() const { return boundPort; }

private:
  Listener(Connections &connections, int descriptor, size_t index);
  static Result<std::unique_ptr<Listener>> openFile(Connections &connections,
                                                    const std::string &path, size_t index);

  void await();
  // False: no descriptor is left for more.
  bool acceptAll(int most);

  Connections &connections;
  const size_t index;
  uint16_t boundPort = 0;
  std::string path; // of the file that is removed at the end
  boost::asio::posix::stream_descriptor socket;
  boost::asio::steady_timer pause;
};

} // namespace moe::server::http

#endif
