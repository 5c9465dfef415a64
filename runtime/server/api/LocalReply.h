// An answer that is kept instead of sent.
#ifndef MOE_RUNTIME_SERVER_API_LOCALREPLY_H
#define MOE_RUNTIME_SERVER_API_LOCALREPLY_H

#include "runtime/server/http/Server.h"

namespace moe::server::api {

class LocalReply : public http::Reply {
public:
  int status = 0; // 0: nothing yet
  std::string contentType, body;
  http::Headers headers;
  bool complete = false, aborted = false;

  void send(int code, std::string_view type, std::string text, http::Headers more = {}) override {
    start(code, type, std::move(more));
    body = std::move(text);
    finish();
  }
  void start(int code, std::string_view type, http::Headers more = {}) override {
    status = code;
    contentType = type;
    headers = std::move(more);
  }
  void write(std::string_view data) override { body += data; }
  void finish() override {
    complete = true;
    if (auto call = std::move(done))
      call();
  }
  void abort() override {
    aborted = true;
    finish();
  }
  void onGone(std::function<void()> call) override { gone = std::move(call); }

  void onDone(std::function<void()> call) { done = std::move(call); } // once
  void leave() { // as a client does that goes away
    if (auto call = std::move(gone); call && !complete)
      call();
  }

private:
  std::function<void()> gone, done;
};

} // namespace moe::server::api

#endif
