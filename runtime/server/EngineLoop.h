// The work of an engine's thread: one step of the session after another, each for those whom the
// scheduler chooses.
#ifndef MOE_RUNTIME_SERVER_ENGINELOOP_H
#define MOE_RUNTIME_SERVER_ENGINELOOP_H

#include "runtime/server/Choice.h"
#include "runtime/server/Inbox.h"
#include "runtime/server/KeyShares.h"
#include "runtime/session/NgramDrafter.h"
#include "runtime/session/Pooling.h"

namespace moe::server {

// For one thread.
class EngineLoop {
public:
  EngineLoop(Session session, const Tokenizer *tokenizer, const EngineLimits &limits,
             EngineObserver *observer);

  ServedModel model() const;

  // Learns what steps cost, in about as much time as `limit`. Error: a step failed.
  Status measure(std::chrono::milliseconds limit);

  void add(Arrival arrival);
  void cancel(RequestId id); // without an event
  bool busy() const { return !runs.empty(); }

  // Ends what is late, runs a step for the others. Error: the session can no longer be used; all
  // requests have ended.
  Status iterate();
  // Everything ends.
  void endAll(Finish finish, const std::string &error);

  // Since the last calls: events, and how many requests have ended.
  std::vector<Engine::Delivery> takeEvents() { return std::exchange(events, {}); }
  int64_t takeEnded() { return std::exchange(ended, 0); }
  const EngineStats &stats();

private:
  // A request that has not ended.
  struct Active {
    RequestId id;
    Request request;
    std::shared_ptr<EventSink> sink;
    Clock::time_point arrival, begin;
    size_t share;
    int32_t open;                              // choices that have not ended
    int32_t running = 0;                       // choices with a sequence
    bool begun = false;                        // one had a sequence
    bool promptDone = false;                   // the first choice has computed it
    bool told = false;                         // what comes with the first event
    int64_t longest = 0;                       // tokens of the choice that has most
    int64_t cached = -1;                       // tokens that a prefix gave at first
    int64_t promptRows = 0;                    // of the prompt, whose logits have been seen
    std::vector<TokenEvent> prompt;            // with promptLogprobs
    std::optional<Pooling> pooling;            // of `embed`: the states of the prompt so far,
    std::vector<std::vector<float>> embedding; // and what Event::embedding will be
  };
  // A choice of one.
  struct Run {
    std::shared_ptr<Active> of;
    int32_t index;
    std::unique_ptr<Choice> choice{};  // from when it is first begun
    int32_t sequence = -1;             // -1: waits
    int64_t counted = 0;               // tokens of the answer so far
    Clock::time_point first{}, last{}; // of these
    std::optional<NgramDrafter> drafter{};
    std::vector<int32_t> drafts{}; // of the step at hand
    std::vector<int32_t> fed{};    // with drafts: what the step is given
    int64_t start = 0;             // tokens that the sequence had before it
    bool waits = false;            // for a prefix that another one computes
    bool ended = false;
    std::optional<Error> failed{};    // in the step at hand
    std::optional<int32_t> sampled{}; // by the device
  };

  static constexpr uint64_t kOwnSalt = ~uint64_t(0); // of sequences that are no client's
  static double seconds(Clock::duration time) {
    return std::chrono::duration<double>(time).count();
  }
  static int64_t promptTokens(const Run &run) { return int64_t(run.of->request.prompt.size()); }
  void endLate(Clock::time_point now);

  // EngineSchedule.cpp
  static bool writes(const Run &run); // whether tokens are to be chosen
  bool wantsPromptRows(const Run &run) const;
  Task taskOf(const Run &run) const;
  void refreshPools();
  bool begin(size_t index);
  bool soonCached(const Run &run) const;
  void propose();
  void stop(Run &run);
  void preempt(size_t index);
  Plan schedule();

  // EngineStep.cpp
  void runStep(const Plan &plan);
  Append appendOf(Run &run, const Plan::Part &part);
  Status row(Run &run, int64_t position, std::span<const float> values);
  Status promptRow(Active &of, int64_t position, std::span<const float> logits);
  void append(Run &run, TokenEvent token);
  void advance(Run &run, Clock::time_point now);
  void learn(const Plan &step, double seconds);
  void recover(const Plan &step, const Error &error);
  Status probe();

  // EngineEnd.cpp
  void endPrompt(Run &run);
  void tell(Run &run);
  void end(Run &run, Finish finish, const std::string &error = {});
  void retire(Run &run, Finish finish);

  Session session;
  const EngineLimits limits;
  EngineObserver *observer;
  ChoiceContext context;
  Scheduler scheduler;
  StepCosts costs;
  KeyShares shares;

  std::vector<std::unique_ptr<Run>> runs; // in the order of arrival
  std::vector<Task> tasks;                // of the runs
  std::vector<PoolState> pools;
  std::vector<Append> appends; // of the step at hand
  std::optional<Error> broken;
  int failures = 0; // of steps, one after another
  double rateTokens = 0, rateSeconds = 0;
  EngineStats figures;
  std::vector<Engine::Delivery> events;
  int64_t ended = 0;
};

} // namespace moe::server

#endif
