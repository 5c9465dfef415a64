// The thread: takes what has come, works, tells what came of it.
#include "runtime/server/Engine.h"

#include "runtime/server/EngineLoop.h"
#include "runtime/server/Inbox.h"

#include <thread>

namespace moe::server {

class Engine::Impl {
public:
  Impl(Session session, const Tokenizer *tokenizer, const EngineLimits &limits, Deliver deliver,
       EngineObserver *observer)
      : loop(std::move(session), tokenizer, limits, observer), model(loop.model()),
        inbox(model, limits), limits(limits), deliver(std::move(deliver)) {
    inbox.report(loop.stats());
  }

  void run() {
    if (Status measured = loop.measure(limits.measure); !measured)
      return fail(measured.error());
    while (true) {
      Inbox::Taken taken = inbox.take(!loop.busy());
      for (Arrival &arrival : taken.arrivals)
        loop.add(std::move(arrival));
      for (RequestId id : taken.cancelled)
        loop.cancel(id);
      if (taken.endAll) {
        loop.endAll(Finish::Failed, *taken.endAll);
        tell();
        continue;
      }
      if (taken.stop) {
        loop.endAll(Finish::Cancelled, "the engine ends");
        return tell();
      }
      if (Status done = loop.iterate(); !done)
        return fail(done.error());
      tell();
    }
  }

  EngineLoop loop; // of the thread alone
  const ServedModel model;
  Inbox inbox;
  const EngineLimits limits;
  const Deliver deliver;
  std::thread thread;

private:
  void tell() {
    inbox.report(loop.stats()); // who sees an event sees the figures with it
    if (auto events = loop.takeEvents(); !events.empty())
      deliver(std::move(events));
    inbox.ended(loop.takeEnded());
  }
  void fail(const Error &error) {
    for (Arrival &arrival : inbox.fail(error))
      loop.add(std::move(arrival));
    loop.endAll(Finish::Failed, error.message);
    tell();
  }
};

Engine::Engine(std::unique_ptr<Impl> impl) : impl(std::move(impl)) {}

Result<std::unique_ptr<Engine>> Engine::create(Session session, const Tokenizer *tokenizer,
                                               const EngineLimits &limits, Deliver deliver,
                                               EngineObserver *observer) {
  if (limits.maxWaiting < 1 || limits.maxQueue.count() < 0 || limits.maxPerKey < 0 ||
      limits.drafts < 0 || !(limits.itlStretch == 0 || limits.itlStretch >= 1) ||
      !(limits.promptShare >= 0 && limits.promptShare <= 1))
    return Error{
        Code::InvalidArgument,
        "an engine's limits cannot be negative, one request must be able to wait, and steps "
        "with prompts cannot be shorter than those without: the stretch is 0 or at least "
        "1, and the share of prompts 0 to 1"};
  auto impl =
      std::make_unique<Impl>(std::move(session), tokenizer, limits, std::move(deliver), observer);
  try {
    impl->thread = std::thread([at = impl.get()] { at->run(); });
  } catch (const std::system_error &error) {
    return Error{Code::ResourceExhausted,
                 std::string("the system gives no thread for the engine: ") + error.what()};
  }
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Engine::~Engine() {
  impl->inbox.stop();
  impl->thread.join();
}

std::variant<RequestId, Refusal> Engine::submit(Request request, std::shared_ptr<EventSink> sink) {
  return impl->inbox.submit(std::move(request), std::move(sink), Clock::now());
}

void Engine::cancel(RequestId id) { impl->inbox.cancel(id); }
void Engine::drain() { impl->inbox.drain(); }
void Engine::endAll(std::string reason) { impl->inbox.endAll(std::move(reason)); }
bool Engine::idle() const { return impl->inbox.idle(); }
std::optional<Error> Engine::failure() const { return impl->inbox.failure(); }
EngineStats Engine::stats() const { return impl->inbox.stats(); }
int64_t Engine::context() const { return impl->model.context; }
int64_t Engine::vocab() const { return impl->model.vocab; }

} // namespace moe::server
