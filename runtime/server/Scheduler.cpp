// A step is filled from the most important task to the least; what does not fit any more waits.
#include "runtime/server/Scheduler.h"

#include "runtime/session/KvCache.h"

#include <algorithm>
#include <cassert>
#include <tuple>

namespace moe::server {
namespace {

constexpr int64_t kPageTokens = KvCache::pageTokens;

int64_t pagesOf(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

// The most important first.
auto rank(const Task &task) { return std::tuple(task.priority, task.arrival, task.choice); }

// What is left while a step is filled.
struct Room {
  int64_t tokens, rows;
  std::vector<int64_t> pages; // per pool

  // The most of `count` more tokens that the pages allow a sequence of `length`.
  int64_t inPages(int64_t length, int64_t count) const {
    for (int64_t left : pages)
      count = std::min(count, (pagesOf(length) + left) * kPageTokens - length);
    return count;
  }
  void take(int64_t length, int64_t count, int64_t withRows) {
    tokens -= count;
    rows -= withRows;
    for (int64_t &left : pages)
      left -= pagesOf(length + count) - pagesOf(length);
  }
};

// Where a chunk of `count` of a prompt should end: at the end of a page, which is then full and can
// be shared, unless that would cost much of the step.
int64_t chunkOf(int64_t length, int64_t count, int64_t pending) {
  if (count == pending)
    return count;
  const int64_t whole = (length + count) / kPageTokens * kPageTokens - length;
  return whole >= count - count / 4 ? whole : count;
}

// The fewest tokens of prompts from `least` on, of `pending`, that a step may have beside `used`
// others for prompts to go on at `share` of their rate in steps of their own.
int64_t tokensForShare(const StepCosts &costs, int64_t least, int64_t pending, int64_t used,
                       double share) {
  const double alone = costs.of(pending);
  while (least < pending &&
         double(least) * alone < share * double(pending) * costs.of(used + least))
    ++least;
  return least;
}

// The youngest of the lowest priority.
std::optional<size_t> victim(std::span<const Task> tasks) {
  std::optional<size_t> last;
  for (size_t i = 0; i < tasks.size(); ++i)
    if (tasks[i].running && (!last || rank(tasks[i]) > rank(tasks[*last])))
      last = i;
  return last;
}

} // namespace

Plan Scheduler::plan(std::span<const Task> tasks, std::span<const PoolState> pools,
                     const StepCosts &costs) const {
  std::vector<size_t> writing, prompts;
  for (size_t i = 0; i < tasks.size(); ++i)
    if (tasks[i].running)
      (tasks[i].writing ? writing : prompts).push_back(i);
  for (auto *order : {&writing, &prompts})
    std::sort(order->begin(), order->end(),
              [&](size_t a, size_t b) { return rank(tasks[a]) < rank(tasks[b]); });
  assert(int64_t(writing.size() + prompts.size()) <= limits.maxTasks);

  Plan plan;
  Room room{limits.maxStep, limits.maxRows, {}};
  for (const PoolState &pool : pools)
    room.pages.push_back(pool.available);
  // Each prompt may always have a token and a row.
  const auto kept = int64_t(prompts.size());
  for (size_t at = 0; at < writing.size(); ++at) {
    const Task &task = tasks[writing[at]];
    if (room.inPages(task.length, 1) < 1) {
      plan.preempt = victim(tasks);
      return plan;
    }
    // Nor do drafts take what those who come later need.
    const auto later = int64_t(writing.size() - at - 1);
    int64_t count = 1 + std::clamp<int64_t>(std::min(room.tokens, room.rows) - kept - later - 1, 0,
                                            task.drafts);
    count = room.inPages(task.length, count);
    plan.parts.push_back({writing[at], count, count});
    room.take(task.length, count, count);
  }

  const int64_t used = limits.maxStep - room.tokens;
  int64_t allowed = room.tokens;
  if (used > 0 && limits.itlStretch > 0) {
    const double longest = costs.of(used) * limits.itlStretch;
    int64_t pending = 0;
    for (size_t index : prompts)
      pending += tasks[index].pending;
    const int64_t most = std::min(pending, room.tokens);
    allowed = std::max<int64_t>(costs.within(longest, limits.maxStep) - used, 1);
    allowed = tokensForShare(costs, allowed, most, used, limits.promptShare);
    allowed = std::min(allowed, room.tokens);
  }
  bool complete = true; // all prompts are in the step whole
  for (size_t index : prompts) {
    const Task &task = tasks[index];
    int64_t count = std::min(task.pending, allowed);
    if (task.everyRow)
      count = std::min(count, room.rows);
    else if (count == task.pending && room.rows < 1)
      --count;
    const int64_t wanted = count;
    count = room.inPages(task.length, count);
    if (wanted > 0 && count < 1) { // pages are short
      const size_t last = *victim(tasks);
      if (last != index) {
        plan.preempt = last;
        return plan;
      }
    }
    count = count < 1 ? 0 : chunkOf(task.length, count, task.pending);
    if (count < 1)
      return plan; // those behind it do not overtake it
    const bool whole = count == task.pending;
    const int64_t rows = task.everyRow ? count : whole;
    plan.parts.push_back({index, count, rows});
    room.take(task.length, count, rows);
    allowed -= count;
    complete = complete && whole;
  }
  if (complete && room.rows > 0)
    plan.room = allowed;
  return plan;
}

std::optional<size_t> Scheduler::next(std::span<const Task> tasks,
                                      std::span<const Share> shares) const {
  int64_t running = 0;
  for (const Task &task : tasks)
    running += task.running;
  if (running >= limits.maxTasks)
    return std::nullopt;
  // What was begun goes on before more is begun; then whose key has had least.
  const auto order = [&](const Task &task) {
    return std::tuple(task.priority, !task.begun, task.begun ? 0.0 : shares[task.key].served,
                      task.arrival, task.choice);
  };
  std::optional<size_t> first;
  for (size_t i = 0; i < tasks.size(); ++i) {
    const Task &task = tasks[i];
    const Share &share = shares[task.key];
    const bool full = limits.maxPerKey > 0 && share.limited && share.running >= limits.maxPerKey;
    if (task.running || task.blocked || (full && !task.begun))
      continue;
    if (!first || order(task) < order(tasks[*first]))
      first = i;
  }
  return first;
}

bool Scheduler::fits(const Task &task, std::span<const PoolState> pools, int64_t others) const {
  if (others == 0)
    return true; // it has all pages to itself, and capacity() says that they are enough
  const int64_t end = task.length + task.pending;
  for (const PoolState &pool : pools) {
    int64_t needed = pagesOf(end) - pagesOf(task.length);
    if (pool.chunk > 0) // pages of a chunk go back when the next begins
      needed = std::min(needed, pagesOf(pool.chunk) + 1 + pagesOf(limits.maxStep));
    if (needed + others > pool.available)
      return false;
  }
  return true;
}

int64_t Scheduler::capacity(std::span<const PoolState> pools, int64_t context) {
  for (const PoolState &pool : pools)
    // A chunk that does not begin with a page touches one more; the step that enters the next chunk
    // holds a page of that as well.
    if (pool.chunk == 0 || pool.pages < pagesOf(pool.chunk) + 2)
      context = std::min(context, pool.pages * kPageTokens);
  return context;
}

} // namespace moe::server
