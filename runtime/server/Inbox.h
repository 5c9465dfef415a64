// What other threads leave for an engine's thread, and what it tells them: the one place where they
// meet.
#ifndef MOE_RUNTIME_SERVER_INBOX_H
#define MOE_RUNTIME_SERVER_INBOX_H

#include "runtime/server/Engine.h"

#include <condition_variable>
#include <mutex>

namespace moe::server {

// A request that was taken.
struct Arrival {
  RequestId id; // rises with time
  Request request;
  std::shared_ptr<EventSink> sink;
  Clock::time_point time;
};

// What every request must fit.
struct ServedModel {
  int64_t vocab = 0;
  int64_t context = 0; // tokens of a prompt and its answer
  bool hasText = false;
  bool embeds = false;
};

// Everything from any thread, but `take`, `report`, `ended` and `fail` from the engine's alone.
class Inbox {
public:
  Inbox(const ServedModel &model, const EngineLimits &limits) : model(model), limits(limits) {}

  std::variant<RequestId, Refusal> submit(Request request, std::shared_ptr<EventSink> sink,
                                          Clock::time_point now);
  void cancel(RequestId id);
  void drain();
  void endAll(std::string reason);
  void stop();
  bool idle() const;
  EngineStats stats() const;
  std::optional<Error> failure() const;

  struct Taken {
    std::vector<Arrival> arrivals;
    std::vector<RequestId> cancelled;
    std::optional<std::string> endAll; // with this reason
    bool stop = false;
  };
  // What has come. Waits for something where `wait` is set.
  Taken take(bool wait);

  // Tells how things stand. `now` counts as waiting and running only what has been taken.
  void report(const EngineStats &now);
  // So many requests are no more, and their last events are delivered.
  void ended(int64_t requests);
  // The engine has failed: what has come and comes is refused. What had come already.
  std::vector<Arrival> fail(Error error);

private:
  std::optional<Error> check(const Request &request) const;
  std::optional<Refusal> overload() const;

  const ServedModel model;
  const EngineLimits limits;

  mutable std::mutex mutex;
  std::condition_variable wake;
  Taken box;
  int64_t boxTokens = 0; // of prompts in the box
  int64_t open = 0;      // requests that have not ended
  RequestId last = 0;
  bool draining = false;
  std::optional<Error> broken;
  EngineStats known; // as reported last
};

} // namespace moe::server

#endif
