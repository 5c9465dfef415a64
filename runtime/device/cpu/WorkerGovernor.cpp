#include "runtime/device/cpu/WorkerGovernor.h"

#include <algorithm>
#include <cmath>

namespace moe::cpu {
namespace {

// Seconds. Time slices are of 3 to 6 ms, periods of a control group's quota of 100 ms: a trial must
// see several of the former, and what stays is judged by more than one of the latter.
constexpr double kMemory = 0.3, kTrial = 0.1, kShortestTrial = 0.01;
constexpr double kLongestPause = 8;

// The time between searches, as a multiple of what trials lose: while all run, while fewer do or
// before the first, and where all have become slow.
constexpr double kLossOfAll = 100, kLoss = 40, kLossAtOnce = 10;

// All are slow: below this speed something is in the way. A trial has failed early below this part
// of the speed that it is compared with, and has won above that one.
constexpr double kSlow = 0.75, kMuchWorse = 0.8, kBetter = 1.05;

// A cost follows quick steps within a tenth of a second, and slow ones in many: a processor that
// others take does not change it, a machine that gets slower for good does.
constexpr double kDown = 0.1, kUp = 5;

} // namespace

WorkerGovernor::WorkerGovernor(int most) {
  choices.push_back({most});
  for (int fewer = 1; most - fewer > most / 2; fewer *= 2)
    choices.push_back({most - fewer});
  for (int some = most / 2; some >= 1; some /= 2)
    choices.push_back({some});
  untried.reserve(choices.size());
}

int WorkerGovernor::workers(uint64_t kind) {
  const Cost &cost = entryOf(kind);
  const bool tooLong = cost.kind == kind && cost.seconds > longest;
  running = tried != best && tooLong ? best : tried;
  return choices[running].workers;
}

std::optional<double> WorkerGovernor::costOf(uint64_t kind, double took) {
  Cost &cost = entryOf(kind);
  if (cost.kind != kind || cost.once) {
    // The first step of a kind may have waited for the plan's file, and says nothing. Fewer workers
    // cannot say what all need, so that a step of theirs speaks neither for them nor against them.
    const bool first = cost.kind != kind && running == 0 && best == 0;
    cost = {kind, running == 0 ? took : took * std::min(1.0, choices[best].speed()),
            first || running != 0};
    return first ? std::nullopt : std::optional(cost.seconds);
  }
  if (running == 0)
    cost.seconds += (std::min(took, 2 * cost.seconds) - cost.seconds) *
                    (1 - std::exp(-took / (took < cost.seconds ? kDown : kUp)));
  return cost.seconds;
}

void WorkerGovernor::ran(uint64_t kind, Duration duration) {
  if (choices.size() == 1)
    return;
  const double took = std::max(std::chrono::duration<double>(duration).count(), 1e-9);
  now += took;
  const std::optional<double> cost = costOf(kind, took);
  if (!cost)
    return;
  Choice &choice = choices[running];
  const double kept = running == best ? std::exp(-took / kMemory) : 1;
  choice.cost = choice.cost * kept + *cost;
  choice.time = choice.time * kept + took;

  if (running != tried)
    return; // a long step amid a trial
  if (tried == best) {
    if (choice.time >= kShortestTrial && wantsSearch(*cost))
      beginSearch(*cost);
  } else if (choice.time >= kTrial || (choice.time >= kShortestTrial &&
                                       choice.speed() < kMuchWorse * choices[best].speed())) {
    endTrial();
  }
}

// `cost`: of the last step. A trial takes one such step at least, and may lose as much again.
bool WorkerGovernor::wantsSearch(double cost) const {
  const double speed = choices[best].speed(), since = now - searched;
  if (now >= searchAt && (best != 0 || speed < kSlow))
    return true;
  if (speed < kMuchWorse * speedThen)
    return since >= kLossAtOnce * cost;
  return now >= searchAnyway && since >= (searched > 0 ? kLossOfAll : kLoss) * cost;
}

void WorkerGovernor::beginSearch(double cost) {
  longest = std::max(2 * cost, kTrial);
  lost = 0;
  worse = 0;
  // From the last element on: all, and what is near; where all run, fewer and fewer.
  untried.clear();
  if (best == 0) {
    for (size_t i = choices.size(); --i > 0;)
      untried.push_back(i);
  } else {
    for (size_t i : {best + 1, best - 1, size_t(0)})
      if (i < choices.size() && std::find(untried.begin(), untried.end(), i) == untried.end())
        untried.push_back(i);
  }
  nextTrial();
}

void WorkerGovernor::nextTrial() {
  if (untried.empty() || worse == 2) {
    tried = best;
    const double pause = lost * (best == 0 ? kLossOfAll : kLoss);
    const double longestPause = std::max(kLongestPause, kLoss * longest / 2);
    searchAt = now + std::clamp(pause, best == 0 ? 0.5 : 0.1, longestPause);
    searched = now;
    searchAnyway = now + kLongestPause;
    speedThen = std::min(choices[best].speed(), 1.0);
    return;
  }
  tried = untried.back();
  untried.pop_back();
  choices[tried].cost = choices[tried].time = 0;
}

void WorkerGovernor::endTrial() {
  const double before = choices[best].speed(), speed = choices[tried].speed();
  if (speed > kBetter * before) {
    best = tried;
    worse = 0;
  } else {
    lost += choices[tried].time * std::max(0.0, 1 - speed / before);
    worse += speed < kMuchWorse * before;
  }
  nextTrial();
}

} // namespace moe::cpu
