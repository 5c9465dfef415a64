#include "runtime/server/http/Connections.h"

#include "runtime/server/http/Connection.h"
#include "runtime/server/http/Response.h"

#include <boost/asio/post.hpp>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <exception>
#include <random>
#include <unistd.h>

namespace moe::server::http {

Connections::Connections(boost::asio::io_context &io, const Options &options,
                         std::shared_ptr<Tls> tls, Handler handler,
                         std::shared_ptr<PostQueue> posts)
    : io(io), options(options), handler(std::move(handler)), posts(std::move(posts)),
      tls(std::move(tls)) {
  std::random_device random;
  idState = uint64_t(random()) << 32 | random();
}

void Connections::admit(int descriptor, Peer peer, size_t listener) {
  const bool counted = !peer.network.empty();
  std::unique_ptr<Transport> transport =
      tls && counted ? tls->makeTransport(descriptor) : makePlainTransport(descriptor);
  const Limits &limits = options.limits;
  bool full = !transport;
  if (counted && !full) {
    const auto same = perNetwork.find(peer.network);
    full = remote >= limits.connections ||
           (same != perNetwork.end() && same->second >= limits.perAddress);
  }
  if (full) {
    // An answer in the clear would be noise to a client that expects a handshake.
    if (!tls || !counted)
      guard([&] { refuse(*transport); });
    ::close(descriptor);
    return;
  }
  std::shared_ptr<Connection> connection;
  try {
    connection =
        std::make_shared<Connection>(*this, descriptor, std::move(transport), peer, listener);
  } catch (...) { // no memory, here or in the system's event queue
    ::close(descriptor);
    throw;
  }
  open.insert(connection);
  if (counted) {
    ++remote;
    ++perNetwork[peer.network];
  }
  connection->start();
}

void Connections::remove(const std::shared_ptr<Connection> &connection, const Peer &peer) {
  if (open.erase(connection) == 0 || peer.network.empty())
    return;
  --remote;
  const auto same = perNetwork.find(peer.network);
  if (--same->second == 0)
    perNetwork.erase(same);
}

// Costs no connection: what fits into the socket's own buffer is sent, and nothing is waited for.
void Connections::refuse(Transport &transport) {
  const std::string body = errorBody(503, "too many connections are open; try again");
  std::string out;
  appendHead(out,
             {.status = 503, .contentType = errorType(), .length = body.size(), .keepAlive = false},
             {{"retry-after", "1"}});
  out += body;
  transport.write(out);
  transport.endWriting();
  transport.read(scratch.data(), scratch.size()); // what is left unread would destroy the answer
}

void Connections::flushLater(std::shared_ptr<Connection> connection) {
  unflushed.push_back(std::move(connection));
  if (unflushed.size() == 1)
    boost::asio::post(io, [this] { flushAll(); });
}

void Connections::flushAll() {
  // A flush that completes an answer may hand the next request to the handler, which writes.
  for (const auto &connection : std::exchange(unflushed, {}))
    connection->flush();
}

void Connections::closeIdle() {
  keepsAlive = false;
  const std::vector<std::shared_ptr<Connection>> all(open.begin(), open.end());
  for (const auto &connection : all)
    connection->closeIfIdle();
}

size_t Connections::answering() const {
  return size_t(std::count_if(open.begin(), open.end(),
                              [](const auto &connection) { return connection->answering(); }));
}

void Connections::closeAll() {
  while (!open.empty())
    (*open.begin())->shut();
  unflushed.clear();
}

void Connections::reportException() {
  std::string what = "what is no std::exception";
  try {
    throw;
  } catch (const std::exception &error) {
    what = error.what();
  } catch (...) {
  }
  const std::string message = "a handler or posted call threw: " + what;
  if (options.report)
    options.report(message);
  else
    std::fprintf(stderr, "%s\n", message.c_str());
}

std::string Connections::errorBody(int status, std::string_view message) const {
  return options.errorBody ? options.errorBody(status, message) : std::string(message) + "\n";
}

// Not to be guessed from one another by chance, no more: SplitMix64 of a random start.
std::string Connections::newId() {
  const auto next = [this] {
    uint64_t z = idState += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  };
  char text[40];
  std::snprintf(text, sizeof(text), "req-%016" PRIx64 "%016" PRIx64, next(), next());
  return text;
}

} // namespace moe::server::http
