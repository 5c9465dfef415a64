// What answers requests: an engine, or in tests a script.
#ifndef MOE_RUNTIME_SERVER_GENERATOR_H
#define MOE_RUNTIME_SERVER_GENERATOR_H

#include "runtime/Status.h"
#include "runtime/server/Request.h"

#include <chrono>
#include <memory>
#include <variant>

namespace moe::server {

// Why submit refuses: a caller maps these to answers.
//   InvalidArgument    the request cannot ever be served (too long, ids, options); the message says
//                      why
//   Unimplemented      the plan has not what it takes: hidden states for `embed`
//   ResourceExhausted  too many wait; `retryAfter` says when to come again
//   Unavailable        the generator drains or has failed
struct Refusal {
  Error error;
  std::chrono::seconds retryAfter{0};
};

class Generator {
public:
  virtual ~Generator() = default;

  // From any thread. The sink gets events until one with `finish` for each choice.
  virtual std::variant<RequestId, Refusal> submit(Request request,
                                                  std::shared_ptr<EventSink> sink) = 0;
  // The client is gone: after what the step that runs now gives, no event comes. Unknown ids are
  // fine. From any thread.
  virtual void cancel(RequestId id) = 0;

  virtual int64_t context() const = 0; // tokens of a prompt and its answer
  virtual int64_t vocab() const = 0;
};

} // namespace moe::server

#endif
