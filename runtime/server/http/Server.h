// Connections of HTTP/1.1 clients on one thread: requests to a handler, answers and streams back.
// Knows no API. Boost and OpenSSL are seen in this folder alone, and not in this header.
#ifndef MOE_RUNTIME_SERVER_HTTP_SERVER_H
#define MOE_RUNTIME_SERVER_HTTP_SERVER_H

#include "runtime/Status.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe::server::http {

// What one client, and all together, may cost. Who goes beyond gets an answer that says so, where
// one can be given, and is cut off.
struct Limits {
  uint64_t body = 16 << 20;    // bytes of a request's body: 413
  uint64_t bodies = 512 << 20; // bytes of bodies that are still arriving, of all connections: 503
  uint64_t header = 16 << 10;  // bytes of request line and headers: 431
  int32_t connections = 2048;  // over TCP: 503
  int32_t perAddress = 256;    // of them from an IPv4 address or an IPv6 network of 64 bits: 503
  std::chrono::milliseconds headerTime{
      10'000};                                 // from the first byte (of a new connection: from its
                                               // start) to the header's end, however it drips: 408
  std::chrono::milliseconds bodyTime{60'000};  // from there to the body's end: 408
  std::chrono::milliseconds idleTime{75'000};  // between two requests
  std::chrono::milliseconds writeTime{60'000}; // that a reader may take no byte of what is there
  uint64_t pending = 1 << 20;                  // bytes that a stream's reader may lag behind
};

using Headers = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method; // GET for HEAD as well: the server leaves the body of its answer out
  std::string path;   // starts with '/'; percent-decoded, without NUL
  std::string query;  // after '?', as it was sent
  Headers headers; // in their order, names in lower case; no control character in a value but tab
  std::string body;
  std::string
      id; // x-request-id if it was sent and is clean, else one of ours; goes back with the answer
  std::string peer;    // address of the client, for logs; "unix" where a listener is a file
  size_t listener = 0; // which of Options' endpoints it came to: 0 is host:port, others[i] is i + 1

  // The first of that name, which is in lower case; null: absent.
  const std::string *header(std::string_view name) const {
    for (const auto &[each, value] : headers)
      if (each == name)
        return &value;
    return nullptr;
  }
};

// The answer to one request: either send, or start, write.., finish. On the server's thread alone,
// but the last reference may be dropped on any. Calls after the answer is complete, or the client
// gone, do nothing. An answer that is dropped before it began becomes a 500; before it is complete,
// it is aborted.
//
// Header names that are no tokens are left out, and control characters in values become spaces, so
// that nothing in a value can start a header or a body of its own.
class Reply {
public:
  virtual ~Reply() = default;
  virtual void send(int status, std::string_view contentType, std::string body,
                    Headers headers = {}) = 0;
  virtual void start(int status, std::string_view contentType, Headers headers = {}) = 0; // chunked
  // Sent at the end of the current turn of the server's loop, with all else that was written in it
  // or while the socket was busy.
  virtual void write(std::string_view data) = 0;
  virtual void finish() = 0;
  // Closes the connection: the client sees that the answer is not whole, and may miss what was
  // written last.
  virtual void abort() = 0;
  // Told once, if the client goes (or closes its side of the connection), its reader lags too far
  // or takes nothing for too long, before the answer is complete. Dropped untold with the server.
  virtual void onGone(std::function<void()> call) = 0;
};

using Handler = std::function<void(HttpRequest, std::shared_ptr<Reply>)>;

// Where to listen: a name or address and a port (0: any), or "unix:/path" for a socket in the file
// system that its owner alone may connect to (mode 0600). A socket that is left over there from a
// process that ended is replaced; nothing else is.
struct Endpoint {
  std::string host;
  uint16_t port = 0;
};

struct Options {
  std::string host = "127.0.0.1"; // "0.0.0.0" or "::" (which takes IPv4 as well) for all addresses
  uint16_t port = 8000;
  std::vector<Endpoint> others;
  std::string certificate,
      privateKey; // PEM files; both or none. TLS 1.2 or 1.3 on all TCP endpoints
  // Web pages of these origins ("https://chat.example", or "*" for all) may call. Requests with
  // credentials of the browser's own are never invited. Empty: browsers keep all pages out.
  std::vector<std::string> corsOrigins;
  Limits limits;
  // The JSON body of answers that the server gives itself: 400, 403 (a page of another origin),
  // 408, 413, 417, 431, 500, 501, 503, 505. Null: the message as plain text.
  std::function<std::string(int status, std::string_view message)> errorBody;
  // Told what a handler or a posted call threw. Null: a line on stderr.
  std::function<void(std::string_view message)> report;
};

// One thread calls run; all calls and callbacks are on that thread, unless said otherwise.
class Server {
public:
  // Binds and listens. Error: what could not be bound, and why.
  static Result<std::unique_ptr<Server>> create(const Options &options, Handler handler);
  // After run has returned. Closes what is open; callbacks are dropped untold.
  ~Server();
  Server(const Server &) = delete;
  Server &operator=(const Server &) = delete;

  uint16_t port(size_t listener = 0) const; // 0 for a socket in the file system
  void run(); // once, until stop(); the calling thread is the server's
  // From any thread; runs on the server's, in order. Many posts cost one wake-up. Dropped after
  // stop.
  void post(std::function<void()> call);
  void after(std::chrono::milliseconds time, std::function<void()> call);
  void onSignal(std::vector<int> signals, std::function<void(int)> call); // before run, or in it
  // From now on each answer ends its connection, so that clients come back to another server.
  void endKeepAlive();
  // Takes no more connections. Open answers go on, and the connections that wait for a request
  // close.
  void closeListener();
  void stop(); // from any thread
  size_t connections() const;
  size_t answering() const; // of them, those to which a request's answer, or its end, is owed

private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl;
};

} // namespace moe::server::http

#endif
