#include "runtime/server/http/Listener.h"

#include <arpa/inet.h>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace moe::server::http {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {
constexpr int kBacklog = 1024;
constexpr int kAcceptsAtOnce = 64;               // then others have their turn
constexpr std::chrono::milliseconds kPause{100}; // after the system had no descriptor left
constexpr int kMaxUnsent =
    128 << 10; // bytes that the system takes beyond what is on its way; the rest is ours to count
constexpr std::string_view kFile = "unix:";

// A descriptor until it is handed on.
class Descriptor {
public:
  explicit Descriptor(int value) : value(value) {}
  ~Descriptor() {
    if (value >= 0)
      ::close(value);
  }
  Descriptor(const Descriptor &) = delete;
  Descriptor &operator=(const Descriptor &) = delete;
  int get() const { return value; }
  int release() { return std::exchange(value, -1); }

private:
  int value;
};

Error cannotListen(const std::string &where, int error) {
  std::string message = "cannot listen on " + where + ": ";
  if (error == EADDRINUSE)
    message += "the port is taken by another program. Choose another port, or end that program";
  else if (error == EADDRNOTAVAIL)
    message += "this machine has no such address. 0.0.0.0 or :: stand for all that it has";
  else if (error == EACCES)
    message += "ports below 1024 need a privilege (CAP_NET_BIND_SERVICE). Choose another port";
  else
    message += std::strerror(error);
  return {Code::IoError, message};
}

void set(int descriptor, int level, int option, int value) {
  ::setsockopt(descriptor, level, option, &value,
               sizeof(value)); // without it things work, less well
}

std::string withPort(const std::string &host, uint16_t port) {
  return (host.find(':') == host.npos ? host : "[" + host + "]") + ":" + std::to_string(port);
}

Peer peerOf(const sockaddr_storage &address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const in_addr &ip = reinterpret_cast<const sockaddr_in &>(address).sin_addr;
    inet_ntop(AF_INET, &ip, text, sizeof(text));
    return {text, std::string(reinterpret_cast<const char *>(&ip), sizeof(ip))};
  }
  if (address.ss_family == AF_INET6) {
    const in6_addr &ip = reinterpret_cast<const sockaddr_in6 &>(address).sin6_addr;
    const auto *bytes = reinterpret_cast<const char *>(&ip);
    if (IN6_IS_ADDR_V4MAPPED(&ip)) {
      inet_ntop(AF_INET, bytes + 12, text, sizeof(text));
      return {text, std::string(bytes + 12, 4)};
    }
    inet_ntop(AF_INET6, &ip, text, sizeof(text));
    return {text, std::string(bytes, 8)}; // a customer of a provider has at least as many addresses
  }
  return {"unix", ""};
}
} // namespace

Listener::Listener(Connections &connections, int descriptor, size_t index)
    : connections(connections), index(index), socket(connections.io, descriptor),
      pause(connections.io) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  ::getsockname(descriptor, reinterpret_cast<sockaddr *>(&address), &size);
  if (address.ss_family == AF_INET)
    boundPort = ntohs(reinterpret_cast<const sockaddr_in &>(address).sin_port);
  else if (address.ss_family == AF_INET6)
    boundPort = ntohs(reinterpret_cast<const sockaddr_in6 &>(address).sin6_port);
}

Listener::~Listener() {
  if (!path.empty())
    ::unlink(path.c_str());
}

Result<std::vector<std::unique_ptr<Listener>>>
Listener::open(Connections &connections, const Endpoint &endpoint, size_t index) {
  std::vector<std::unique_ptr<Listener>> listeners;
  if (endpoint.host.starts_with(kFile)) {
    MOE_ASSIGN(listener, openFile(connections, endpoint.host.substr(kFile.size()), index));
    listeners.push_back(std::move(listener));
    return listeners;
  }
  if (endpoint.host.empty())
    return Error{Code::InvalidArgument,
                 "the host to listen on is empty: expected an address or a "
                 "name of this machine, 0.0.0.0 or :: for all addresses, or unix:/path"};
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo *found = nullptr;
  if (const int error = ::getaddrinfo(endpoint.host.c_str(), nullptr, &hints, &found))
    return Error{Code::InvalidArgument,
                 "cannot listen on " + endpoint.host + ": " + gai_strerror(error) +
                     ". Expected an address or a name of this machine, or unix:/path"};
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> all(found, ::freeaddrinfo);
  uint16_t port = endpoint.port;
  int lastError = EADDRNOTAVAIL;
  for (const addrinfo *one = found; one; one = one->ai_next) {
    sockaddr_storage address = {};
    std::memcpy(&address, one->ai_addr, one->ai_addrlen);
    (one->ai_family == AF_INET6 ? reinterpret_cast<sockaddr_in6 &>(address).sin6_port
                                : reinterpret_cast<sockaddr_in &>(address).sin_port) = htons(port);
    Descriptor descriptor(::socket(one->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (descriptor.get() < 0) {
      lastError = errno;
      continue; // a machine without IPv6 has a localhost all the same
    }
    set(descriptor.get(), SOL_SOCKET, SO_REUSEADDR, 1);
    if (one->ai_family == AF_INET6)
      set(descriptor.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (::bind(descriptor.get(), reinterpret_cast<sockaddr *>(&address), one->ai_addrlen) != 0 ||
        ::listen(descriptor.get(), kBacklog) != 0) {
      lastError = errno;
      if (lastError == EADDRNOTAVAIL)
        continue;
      return cannotListen(withPort(endpoint.host, port), lastError);
    }
    listeners.push_back(
        std::unique_ptr<Listener>(new Listener(connections, descriptor.release(), index)));
    port = listeners.back()->port(); // the same for all addresses of the name
  }
  if (listeners.empty())
    return cannotListen(withPort(endpoint.host, port), lastError);
  return listeners;
}

Result<std::unique_ptr<Listener>> Listener::openFile(Connections &connections,
                                                     const std::string &path, size_t index) {
  const auto cannot = [&](const std::string &why) {
    return Error{Code::IoError, "cannot listen on unix:" + path + ": " + why};
  };
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path))
    return cannot("expected a path of 1 to " + std::to_string(sizeof(address.sun_path) - 1) +
                  " bytes");
  std::memcpy(address.sun_path, path.data(), path.size());
  const auto *target = reinterpret_cast<const sockaddr *>(&address);

  struct stat file = {};
  if (::lstat(path.c_str(), &file) == 0) {
    if (!S_ISSOCK(file.st_mode))
      return cannot("there is a file of that name that is no socket. Choose another path");
    const Descriptor probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (::connect(probe.get(), target, sizeof(address)) == 0 || errno != ECONNREFUSED)
      return cannot("another program listens there. Choose another path, or end that program");
    ::unlink(path.c_str());
  }
  Descriptor descriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (descriptor.get() < 0)
    return cannot(std::strerror(errno));
  // Linux gives the file the mode of the socket: there is no moment in which others may connect.
  ::fchmod(descriptor.get(), S_IRUSR | S_IWUSR);
  if (::bind(descriptor.get(), target, sizeof(address)) != 0)
    return cannot(std::strerror(errno));
  if (::chmod(path.c_str(), S_IRUSR | S_IWUSR) != 0 || ::listen(descriptor.get(), kBacklog) != 0) {
    const int error = errno;
    ::unlink(path.c_str());
    return cannot(std::strerror(error));
  }
  std::unique_ptr<Listener> listener(new Listener(connections, descriptor.release(), index));
  listener->path = path;
  return listener;
}

void Listener::start() { await(); }

void Listener::await() {
  socket.async_wait(socket.wait_read, [this](error_code error) {
    if (error || !socket.is_open())
      return;
    if (acceptAll(kAcceptsAtOnce))
      return await();
    pause.expires_after(kPause);
    pause.async_wait([this](error_code cancelled) {
      if (!cancelled && socket.is_open())
        await();
    });
  });
}

bool Listener::acceptAll(int most) {
  for (int i = 0; i < most; ++i) {
    sockaddr_storage address = {};
    socklen_t size = sizeof(address);
    Descriptor accepted(::accept4(socket.native_handle(), reinterpret_cast<sockaddr *>(&address),
                                  &size, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (accepted.get() < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK)
        return true;
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
        return false;
      continue; // a client that left before it was taken
    }
    if (address.ss_family != AF_UNIX) {
      set(accepted.get(), IPPROTO_TCP, TCP_NODELAY, 1);
      set(accepted.get(), SOL_SOCKET, SO_KEEPALIVE, 1); // finds clients that fell off the network
      set(accepted.get(), IPPROTO_TCP, TCP_NOTSENT_LOWAT, kMaxUnsent);
    }
    connections.guard([&] { connections.admit(accepted.release(), peerOf(address), index); });
  }
  return true;
}

void Listener::close() {
  if (!socket.is_open())
    return;
  connections.guard([&] { acceptAll(kBacklog); });
  error_code ignored;
  socket.close(ignored);
  pause.cancel(ignored);
  if (!path.empty())
    ::unlink(std::exchange(path, {}).c_str());
}

} // namespace moe::server::http
