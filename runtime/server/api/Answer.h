// From events to an answer: one for all the choices of a client's request, in the form of an API.
#ifndef MOE_RUNTIME_SERVER_API_ANSWER_H
#define MOE_RUNTIME_SERVER_API_ANSWER_H

#include "runtime/server/api/Models.h"
#include "runtime/server/api/Problem.h"
#include "runtime/text/ToolCalls.h"

#include <functional>

namespace moe::server::api {

struct Totals { // tokens
  int64_t prompt = 0, cached = 0, completion = 0;
};

// What came for a choice: of an event, or of the whole answer.
struct Update {
  int32_t choice = 0;
  bool first = false;               // for this choice
  std::vector<ToolCallEvent> parts; // text and calls in their order
  std::vector<TokenEvent> tokens;   // without the stop token
  std::vector<TokenEvent> prompt;   // with the first, where it is asked for
  std::vector<std::vector<float>> embedding;
  std::optional<Finish> finish; // of an answer: none that is a problem
  bool calls = false;           // with `finish`: the choice called a function
  std::string stopString;       // with Finish::StopString
  int32_t stopToken = -1;       // with Finish::StopToken
};

// How an API says it. For one answer; each call appends to `out`.
class Form {
public:
  virtual ~Form() = default;
  virtual Dialect dialect() const { return Dialect::OpenAi; }

  // A stream: begin, with what the prompt cost, then update.., end. Or instead of what is left,
  // fail.
  virtual void begin(std::string &out, const Totals &totals) {}
  virtual void update(std::string &out, const Update &update, const Totals &totals) = 0;
  virtual void end(std::string &out, const Totals &totals) = 0;
  virtual void fail(std::string &out, const Problem &problem);
  virtual void ping(std::string &out) const { out += ": ping\n\n"; } // while nothing else is sent

  // The body of an answer in one piece. Of each choice one update, in their order.
  virtual void whole(std::string &out, std::span<const Update> choices, const Totals &totals) = 0;
};

// What to ask, and how to answer.
struct Task {
  std::shared_ptr<const ServedModel> model;
  std::vector<Request> requests; // all with the same number of choices
  std::unique_ptr<Form> form;
  bool stream = false;
  std::string cacheSalt;                // prefixes are shared among requests that name the same
  std::optional<GrammarSource> grammar; // to be compiled for all requests
  std::string grammarField;             // who asked for it
  // Functions that may be called: none, and text is not looked at for calls. Without `several` an
  // answer of one choice ends with its first call.
  std::vector<std::string> functions;
  bool several = true;
};

using After = std::function<void(std::chrono::milliseconds, std::function<void()>)>;

// Submits the requests and answers as events come; cancels them when the client goes. All on the
// thread that `reply` belongs to, where also events are delivered. Pings by `after`, if there is
// one.
void answer(Task task, std::shared_ptr<http::Reply> reply, const After &after);

} // namespace moe::server::api

#endif
