// A thread that owns a session and gives each of many requests its share of every step.
//
// What a seed promises: choice i of a request draws its random numbers from seed + i alone. On CPUs
// the logits of a row have the same bits in every company, so a request gets the same tokens
// whatever else runs beside it, however its prompt is divided, whether a prefix of it is cached,
// whether it is preempted, and with drafts or without, on every CPU that runs the same target of
// the plan. On GPUs the same steps give the same bits, but sums differ by rounding between steps of
// other sizes: there the tokens are the same for the same logits, and may differ from run to run
// where two tokens are nearly as likely as each other.
#ifndef MOE_RUNTIME_SERVER_ENGINE_H
#define MOE_RUNTIME_SERVER_ENGINE_H

#include "runtime/server/Generator.h"
#include "runtime/session/Session.h"
#include "runtime/text/Tokenizer.h"

#include <array>
#include <functional>

namespace moe::server {

struct EngineLimits {
  int32_t maxWaiting = 256;                  // requests
  std::chrono::milliseconds maxQueue{60000}; // a request waits at most so long to be begun
  int32_t maxPerKey = 0;                     // requests of a key that run at a time; 0: any number
  // How much longer a step may be with prompts in it, 0: prompts first; and the part of the rate
  // they would have alone that prompts get even so. See SchedulerLimits.
  double itlStretch = 1.5, promptShare = 1.0 / 3;
  int32_t drafts = 0;                     // n-gram drafts of a sequence and step; 0: none
  std::chrono::milliseconds measure{250}; // to learn what steps cost before the first request
};

// What an engine has done since it began, and what it does now.
struct EngineStats {
  struct Pool { // pages of 64 positions
    int64_t pages = 0;
    int64_t free = 0;   // hold nothing
    int64_t cached = 0; // hold a prefix that no sequence uses: taken when none is free
    int64_t held = 0;   // of sequences
  };
  int64_t running = 0, waiting = 0;              // requests
  int64_t waitingTokens = 0;                     // of prompts that wait
  int64_t promptTokens = 0, generatedTokens = 0; // of requests' prompts, cached ones as well
  std::array<int64_t, kFinishes> finished{};     // choices, by Finish
  int64_t preemptions = 0;
  int64_t prefixQueries = 0, prefixHits = 0; // tokens that were looked up, and found
  int64_t drafts = 0, draftHits = 0;         // tokens that were tried, and came true
  std::vector<Pool> pools;
  double prefillRate = 0; // tokens a second, of late; 0: not known yet
};

// Told on the engine's thread, which waits for it.
class EngineObserver {
public:
  struct Timings {                             // of a choice, in seconds
    double queue = 0, prefill = 0, decode = 0; // until it is begun, its first token, its end
    double whole = 0;                          // since it arrived
    int64_t promptTokens = 0, generatedTokens = 0;
    Finish finish = Finish::Cancelled;
  };
  struct Ended { // a request with all its choices
    int32_t choices = 1;
    int64_t maxTokens = 0; // of each as asked for, or what the context has room for
    int64_t longest = 0;   // of the choice that has most, tokens that were generated
  };
  virtual ~EngineObserver() = default;
  // `program`: tokens that the program which ran has room for.
  virtual void onStep(int64_t tokens, int64_t rows, double seconds, int32_t program) {}
  virtual void onFirstToken(double seconds) {}     // since the request arrived
  virtual void onInterToken(double seconds) {}     // since the choice's last token
  virtual void onFinish(const Timings &timings) {} // of each choice, then
  virtual void onEnd(const Ended &request) {}
};

class Engine final : public Generator {
public:
  // One call for all events of a step, on the engine's thread: usually a post to the thread that
  // owns the sinks.
  struct Delivery {
    std::shared_ptr<EventSink> sink;
    Event event;
  };
  using Deliver = std::function<void(std::vector<Delivery>)>;

  // Takes over the session and starts the thread. `tokenizer` may be null: events have no text
  // then. It, the plan and the observer (which may be null) must outlive the engine.
  static Result<std::unique_ptr<Engine>> create(Session session, const Tokenizer *tokenizer,
                                                const EngineLimits &limits, Deliver deliver,
                                                EngineObserver *observer = nullptr);
  ~Engine() override; // ends what runs with Finish::Cancelled and joins

  std::variant<RequestId, Refusal> submit(Request request,
                                          std::shared_ptr<EventSink> sink) override;
  void cancel(RequestId id) override;

  // No more requests are taken; `idle` says when the last one has ended.
  void drain();
  bool idle() const;
  // Drains, and ends what runs and waits with Finish::Failed and this reason, which clients see.
  // Their last events are delivered when the step that runs now is over. From any thread.
  void endAll(std::string reason);
  // What broke, after a step failed that could not be recovered.
  std::optional<Error> failure() const;

  EngineStats stats() const; // a snapshot, as of the last step
  int64_t context() const override;
  int64_t vocab() const override;

private:
  class Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl;
};

} // namespace moe::server

#endif
