// A server on a thread, and clients made of bare sockets, for tests.
#ifndef MOE_RUNTIME_SERVER_HTTP_TESTCLIENT_H
#define MOE_RUNTIME_SERVER_HTTP_TESTCLIENT_H

#include "runtime/server/http/Server.h"

#include <arpa/inet.h>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <future>
#include <gtest/gtest.h>
#include <map>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <optional>
#include <poll.h>
#include <stdexcept>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

namespace moe::server::http {

inline constexpr std::chrono::milliseconds kPatience{20'000}; // before a test gives up

// What a client got, read by rules of its own and not by the server's code.
struct Response {
  int status = 0;
  std::map<std::string, std::string> headers; // names in lower case
  std::string body;
  std::vector<std::string> chunks;
};

class Client {
public:
  explicit Client(uint16_t port, int receiveBuffer = 0) {
    descriptor = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (receiveBuffer > 0)
      ::setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &receiveBuffer, sizeof(receiveBuffer));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(descriptor, reinterpret_cast<sockaddr *>(&address), sizeof(address)) != 0)
      close();
  }
  explicit Client(const std::string &path) {
    descriptor = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    if (::connect(descriptor, reinterpret_cast<sockaddr *>(&address), sizeof(address)) != 0)
      close();
  }
  ~Client() { close(); }
  Client(Client &&other) noexcept
      : input(std::move(other.input)), descriptor(std::exchange(other.descriptor, -1)) {}
  Client(const Client &) = delete;
  Client &operator=(const Client &) = delete;

  bool connected() const { return descriptor >= 0; }
  int socket() const { return descriptor; }
  void close() {
    if (descriptor >= 0)
      ::close(descriptor);
    descriptor = -1;
  }
  // The server's next read fails.
  void reset() {
    const linger none = {1, 0};
    ::setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
    close();
  }
  // False: the server takes no more.
  bool send(std::string_view data) {
    while (!data.empty()) {
      const ssize_t sent = ::send(descriptor, data.data(), data.size(), MSG_NOSIGNAL);
      if (sent <= 0)
        return false;
      data.remove_prefix(size_t(sent));
    }
    return true;
  }

  // Reads more into `input`. False: the end, a reset, or nothing within the time.
  bool more(std::chrono::milliseconds time = kPatience) {
    pollfd poll = {descriptor, POLLIN, 0};
    char data[16384];
    if (::poll(&poll, 1, int(time.count())) != 1)
      return false;
    const ssize_t got = ::recv(descriptor, data, sizeof(data), 0);
    wasReset = got < 0;
    if (got > 0)
      input.append(data, size_t(got));
    return got > 0;
  }
  // True: the server ended the connection, and sent nothing before.
  bool ended(std::chrono::milliseconds time = kPatience) {
    pollfd poll = {descriptor, POLLIN, 0};
    char data = 0;
    return input.empty() && ::poll(&poll, 1, int(time.count())) == 1 &&
           ::recv(descriptor, &data, 1, 0) <= 0;
  }

  std::optional<std::string> line() {
    size_t end = 0;
    while ((end = input.find("\r\n")) == input.npos)
      if (!more())
        return std::nullopt;
    std::string result = input.substr(0, end);
    input.erase(0, end + 2);
    return result;
  }
  std::optional<std::string> bytes(size_t count) {
    while (input.size() < count)
      if (!more())
        return std::nullopt;
    std::string result = input.substr(0, count);
    input.erase(0, count);
    return result;
  }
  // Status and headers alone.
  std::optional<Response> head() {
    Response response;
    std::optional<std::string> text = line();
    if (!text || !text->starts_with("HTTP/1.1 "))
      return std::nullopt;
    response.status = std::atoi(text->c_str() + 9);
    while ((text = line()) && !text->empty()) {
      const size_t colon = text->find(": ");
      if (colon == text->npos)
        return std::nullopt;
      response.headers[text->substr(0, colon)] = text->substr(colon + 2);
    }
    return text ? std::optional(response) : std::nullopt;
  }
  std::optional<std::string> chunk() {
    const std::optional<std::string> size = line();
    if (!size || size->empty())
      return std::nullopt;
    std::optional<std::string> data = bytes(std::strtoul(size->c_str(), nullptr, 16));
    if (!data || line() != "")
      return std::nullopt;
    return data;
  }
  // Nothing: the connection ended before the response did.
  std::optional<Response> response(bool withoutBody = false) {
    std::optional<Response> result = head();
    if (!result || withoutBody || result->status == 100 || result->status == 204)
      return result;
    if (const auto length = result->headers.find("content-length");
        length != result->headers.end()) {
      const std::optional<std::string> body =
          bytes(std::strtoul(length->second.c_str(), nullptr, 10));
      if (!body)
        return std::nullopt;
      result->body = *body;
    } else if (result->headers.count("transfer-encoding")) {
      for (;;) {
        const std::optional<std::string> data = chunk();
        if (!data)
          return std::nullopt;
        if (data->empty())
          break;
        result->body += *data;
        result->chunks.push_back(*data);
      }
    } else {
      while (more()) {
      }
      result->body = std::exchange(input, {});
    }
    return result;
  }

  std::string input; // read, but not yet taken
  bool wasReset = false;

private:
  int descriptor = -1;
};

class TestServer {
public:
  explicit TestServer(Handler handler, Options options = {}) {
    options.port = 0;
    Result<std::unique_ptr<Server>> made = Server::create(options, std::move(handler));
    if (!made)
      throw std::runtime_error(made.error().message); // ends the test
    server = std::move(*made);
    thread = std::thread([this] { server->run(); });
  }
  ~TestServer() { end(); }
  // The server is gone afterwards, as if it had never been.
  void end() {
    if (!server)
      return;
    server->stop();
    thread.join();
    server.reset();
  }
  uint16_t port() const { return server->port(); }
  Server *operator->() { return server.get(); }

  // What `call` gives on the server's thread.
  template <typename Call> auto ask(Call call) {
    std::promise<decltype(call())> promise;
    server->post([&] { promise.set_value(call()); });
    return promise.get_future().get();
  }
  size_t connections() {
    return ask([&] { return server->connections(); });
  }

private:
  std::unique_ptr<Server> server;
  std::thread thread;
};

// False: `condition` does not become true.
inline bool eventually(const std::function<bool()> &condition) {
  for (const auto end = std::chrono::steady_clock::now() + kPatience;
       std::chrono::steady_clock::now() < end;
       std::this_thread::sleep_for(std::chrono::milliseconds(2)))
    if (condition())
      return true;
  return false;
}

inline size_t openDescriptors() {
  size_t count = 0;
  for ([[maybe_unused]] const auto &entry : std::filesystem::directory_iterator("/proc/self/fd"))
    ++count;
  return count;
}

inline std::string get(const std::string &path, const std::string &headers = "") {
  return "GET " + path + " HTTP/1.1\r\nhost: x\r\n" + headers + "\r\n";
}
inline std::string post(const std::string &path, const std::string &body,
                        const std::string &headers = "") {
  return "POST " + path + " HTTP/1.1\r\nhost: x\r\n" + headers +
         "content-length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

} // namespace moe::server::http

#endif
