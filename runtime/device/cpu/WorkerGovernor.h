// How many workers run a step, learned from how long the last ones took.
//
// Workers meet after each kernel, some 50 times a step. One whose processor is taken by another
// program arrives a time slice late, and all wait: two workers can be ten times slower than one.
// Whether fewer are faster depends on the machine, the model and what else runs, so it is tried.
#ifndef MOE_RUNTIME_DEVICE_CPU_WORKERGOVERNOR_H
#define MOE_RUNTIME_DEVICE_CPU_WORKERGOVERNOR_H

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

namespace moe::cpu {

// Steps of one kind (a program and a number of tokens) should take equally long. What all workers
// usually need for them, but for the first, which may wait for the plan's file, is their cost; the
// speed of a number of workers is cost by time, over the last steps. While all workers are about as
// fast as usual, they run. Otherwise smaller numbers are tried, for up to a tenth of a second each,
// and the fastest stays; from time to time the others are tried again. A trial that goes badly ends
// early, and what was lost by trials decides when the next may begin: it is kept under a fortieth
// of the time, and under a hundredth while all run. A step that is long, as those of a prompt are,
// is tried on where short ones would not do, and not before it is worth its time.
//
// From one thread at a time. Allocates in its constructor alone.
class WorkerGovernor {
public:
  using Duration = std::chrono::nanoseconds;

  // most >= 1: all workers.
  explicit WorkerGovernor(int most);

  // For the next step, which is of the kind: from 1 to all.
  int workers(uint64_t kind);

  // That step ran, and took `took`, of which no part is idle time between steps.
  void ran(uint64_t kind, Duration took);

private:
  struct Choice {
    int workers;
    double cost = 0, time = 0; // of the last steps, older ones counting less; seconds
    double speed() const { return time > 0 ? cost / time : 1; }
  };
  struct Cost {
    uint64_t kind = UINT64_MAX;
    double seconds = 0;
    bool once = false; // to be replaced by what all workers need for the next step
  };

  Cost &entryOf(uint64_t kind) { return costs[kind * 0x9E3779B97F4A7C15u >> 58]; }
  std::optional<double> costOf(uint64_t kind, double took);
  bool wantsSearch(double cost) const;
  void beginSearch(double cost);
  void nextTrial();
  void endTrial();

  std::vector<Choice> choices; // fewer and fewer workers
  size_t best = 0, tried = 0;  // into choices; they differ during a trial
  size_t running = 0;          // of the two: what the next step runs with
  std::vector<size_t> untried; // the rest of the search
  std::array<Cost, 64> costs;  // by hash of the kind
  double now = 0;              // seconds of all steps
  double searchAt = 0;         // no search before, unless all is slower than at the last one
  double searchAnyway = 0.5;   // or it is time for one, disturbed or not
  double searched = 0;         // the end of the last one
  double longest = 0;          // cost of a step that this search may try on
  double speedThen = 0;        // of the best, at the end of the last search
  double lost = 0;             // by the trials of this search, seconds
  int worse = 0;               // trials of this search, one after the other, that lost much
};

} // namespace moe::cpu

#endif
