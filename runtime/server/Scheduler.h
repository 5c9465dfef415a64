// Who takes part in the next step of a session, with how many tokens. It keeps no state, starts no
// thread and reads no clock: what it decides follows from what it is given.
//
// Answers that are being written take one token each, and their drafts. Prompts share what is left,
// in the order of priority and arrival, in chunks that make the step at most `itlStretch` times as
// long as without them; but where that would give prompts less than `promptShare` of the rate that
// they would have alone, the step is as long as that takes. (If each token costs the same, a share
// of s is a stretch of 1 / (1 - s). The first few tokens of a step cost more than those behind them
// where each brings weights of its own: there a stretch alone would let prompts starve.) Another
// request is begun when all prompts that were begun are in the step whole and there is room left,
// and when the pools have pages for its prompt and one more for each that runs: not for all that it
// may ever need. When pages are short after all, the youngest request of the lowest priority gives
// up its pages and is computed again later.
//
// Within a priority none starves: the oldest always goes on. Those of a higher priority go first
// for as long as there are any.
#ifndef MOE_RUNTIME_SERVER_SCHEDULER_H
#define MOE_RUNTIME_SERVER_SCHEDULER_H

#include "runtime/server/StepCosts.h"

#include <optional>
#include <span>

namespace moe::server {

struct SchedulerLimits {
  int32_t maxStep = 1;          // tokens of a step
  int32_t maxRows = 1;          // logits or ids of a step
  int32_t maxTasks = 1;         // that run at a time: at most maxStep and maxRows
  double itlStretch = 1.5;      // 0: prompts first
  double promptShare = 1.0 / 3; // 0 to 1
  int32_t maxPerKey = 0;        // requests of a key that run at a time; 0: any number
};

// One choice of a request: a sequence that is to grow.
struct Task {
  uint64_t arrival = 0; // of its request: the earlier, the lower; no two requests have the same
  int32_t choice = 0;
  int32_t priority = 0;  // lower first
  size_t key = 0;        // into the shares
  bool running = false;  // has a sequence and pages
  bool begun = false;    // its request has run before, if not this choice
  bool blocked = false;  // waits for what another one computes
  bool writing = false;  // one token is pending: the one that was chosen last
  bool everyRow = false; // a row for each token and not only the last
  int64_t length = 0;    // tokens that the sequence has
  int64_t pending = 1;   // to be appended until a token is chosen, at least 1
  int32_t drafts = 0;    // of one that is writing: may be appended behind, each with a row
};

// Of a pool: pages of 64 positions.
struct PoolState {
  int32_t chunk = 0; // positions see only those of their chunk; 0: all before them
  int64_t pages = 0;
  int64_t available = 0; // that no sequence holds
};

// Of a key, whose requests share the engine with those of others.
struct Share {
  bool limited = true; // maxPerKey counts for it
  int32_t running = 0; // requests
  double served = 0;   // tokens, weighted
};

struct Plan {
  struct Part {
    size_t task;
    int64_t tokens;
    int64_t rows;
  };
  std::vector<Part> parts;
  // Must give up its pages first; the plan is then made anew.
  std::optional<size_t> preempt;
  // Tokens that one more prompt may have in this step; 0: none is to be begun.
  int64_t room = 0;
};

class Scheduler {
public:
  explicit Scheduler(const SchedulerLimits &limits) : limits(limits) {}

  // The next step of those that run: empty if none does. `pools` has what is available before it.
  Plan plan(std::span<const Task> tasks, std::span<const PoolState> pools,
            const StepCosts &costs) const;

  // The next one to be begun; nothing if none may be.
  std::optional<size_t> next(std::span<const Task> tasks, std::span<const Share> shares) const;

  // Whether one that has just been given a sequence, and what a cached prefix has of its tokens,
  // may stay. `pools` has what is available after that, `others` run beside it.
  bool fits(const Task &task, std::span<const PoolState> pools, int64_t others) const;

  // Tokens that a sequence can have if it is alone, at most `context`.
  static int64_t capacity(std::span<const PoolState> pools, int64_t context);

private:
  SchedulerLimits limits;
};

} // namespace moe::server

#endif
