// The server's endpoints: OpenAI's, Anthropic's, and what vLLM and llama-server have beside them.
//
// A request comes on the thread of the sockets. A worker reads its body and makes ids of it;
// another one compiles grammars, which takes long. Then it is submitted on the first thread, where
// events become an answer.
#ifndef MOE_RUNTIME_SERVER_API_API_H
#define MOE_RUNTIME_SERVER_API_API_H

#include "runtime/server/api/Answer.h"
#include "runtime/server/api/Keys.h"
#include "runtime/server/api/Models.h"

namespace moe::server::api {

struct ApiState {
  enum class Is {
    Serving,
    Loading,  // no model yet
    Draining, // no request is taken any more
    Failed    // and will not recover
  } is = Is::Serving;
  std::string reason; // for the client; empty: a general one
};

struct ApiOptions {
  std::string version;
  Keys keys;                            // none: everybody may
  bool sharePrefixes = false;           // among keys
  std::chrono::milliseconds maxTime{0}; // of a request; 0: as long as it takes
  std::string page;                     // HTML of GET /; empty: none

  // Runs a call on the thread that calls `handle`. From any thread.
  std::function<void(std::function<void()>)> post;
  After after;                          // may be null: streams have no pings then
  std::function<ApiState()> state;      // null: always serving
  std::function<std::string()> metrics; // the body of GET /metrics; null: there are none
};

class Api {
public:
  // Models may come and go while the API is used.
  Api(ApiOptions options, std::shared_ptr<Models> models);
  ~Api(); // drops what workers have not begun

  // An http::Handler. On one thread.
  void handle(http::HttpRequest request, std::shared_ptr<http::Reply> reply);

  // The body of an answer that the server gives by itself: Options::errorBody.
  static std::string errorBody(int status, std::string_view message);

private:
  struct Impl;
  std::unique_ptr<Impl> impl;
};

} // namespace moe::server::api

#endif
