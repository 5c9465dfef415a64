// Who takes part in the next step: what the scheduler, which knows no session, is told of each, and
// what its decisions mean for the session.
#include "runtime/server/EngineLoop.h"

#include <algorithm>

namespace moe::server {
namespace {

std::vector<PoolState> poolsOf(const Session &session) {
  std::vector<PoolState> pools;
  for (size_t pool = 0; pool < session.pools(); ++pool) {
    const PoolUse use = session.poolUse(pool);
    pools.push_back({session.poolChunk(pool), use.pages, use.pages - use.held});
  }
  return pools;
}

// A draft of one of `writers` makes the step longer for all of them.
DraftCost draftCost(const StepCosts &costs, int64_t writers) {
  const double one = costs.of(writers);
  if (!(one > 0))
    return {};
  const auto added = [&](int64_t drafts) {
    return double(writers) * (costs.of(writers + drafts) - one) / one;
  };
  const double row = (added(4) - added(1)) / 3;
  return {std::max(0.0, added(1) - row), std::max(0.0, row)};
}

} // namespace

void EngineLoop::refreshPools() { pools = poolsOf(session); }

// A row of each token of the prompt. What is cached has none.
bool EngineLoop::wantsPromptRows(const Run &run) const {
  const Active &of = *run.of;
  if (of.pooling)
    return of.pooling->tokens() < promptTokens(run);
  return of.request.promptLogprobs && run.index == 0 && of.promptRows < promptTokens(run);
}

bool EngineLoop::writes(const Run &run) {
  return run.of->request.maxTokens != 0 && !run.of->request.embed;
}

Task EngineLoop::taskOf(const Run &run) const {
  const Active &of = *run.of;
  Task task;
  task.arrival = of.id;
  task.choice = run.index;
  task.priority = of.request.priority;
  task.key = of.share;
  task.begun = of.begun;
  task.blocked = run.waits || (run.index > 0 && !of.promptDone); // what the first one publishes
  task.everyRow = wantsPromptRows(run);
  const int64_t total = run.choice ? int64_t(run.choice->tokens().size()) : promptTokens(run);
  if (run.sequence >= 0) {
    task.running = true;
    task.length = session.length(run.sequence);
    task.writing = run.choice && run.choice->generated() > 0 && task.length + 1 == total;
  }
  task.pending = total - task.length;
  task.drafts = task.writing ? int32_t(run.drafts.size()) : 0;
  return task;
}

// Whether one that runs is about to compute more of the same prefix than is cached.
bool EngineLoop::soonCached(const Run &run) const {
  if (!session.keepsPrefixes() || wantsPromptRows(run))
    return false;
  const Request &request = run.of->request;
  const std::vector<int32_t> &tokens = run.choice ? run.choice->tokens() : request.prompt;
  int64_t cached = -1;
  for (const auto &other : runs) {
    const Request &theirs = other->of->request;
    if (other->sequence < 0 || theirs.salt != request.salt || theirs.priority > request.priority)
      continue;
    const int64_t length = session.length(other->sequence);
    if (length >= promptTokens(*other))
      continue;
    const auto differs =
        std::mismatch(tokens.begin(), tokens.end() - 1, theirs.prompt.begin(), theirs.prompt.end());
    const int64_t common =
        (differs.first - tokens.begin()) / KvCache::pageTokens * KvCache::pageTokens;
    if (common <= length) // all of it is there
      continue;
    if (cached < 0)
      cached = session.cachedPrefix(tokens, request.salt);
    if (common > cached)
      return true;
  }
  return false;
}

// Guesses what those that write will write next.
void EngineLoop::propose() {
  if (limits.drafts < 1)
    return;
  int64_t writers = 0;
  for (const auto &run : runs)
    writers += taskOf(*run).writing;
  const DraftCost cost = draftCost(costs, writers);
  for (const auto &run : runs) {
    run->drafts.clear();
    if (!taskOf(*run).writing)
      continue;
    const Request &request = run->of->request;
    int64_t most =
        std::min<int64_t>(limits.drafts, context.context - session.length(run->sequence) - 1);
    if (request.maxTokens >= 0)
      most = std::min(most, request.maxTokens - run->choice->generated() - 1);
    if (most < 1)
      continue;
    run->drafts.resize(size_t(most));
    run->drafts.resize(run->drafter->propose(run->drafts, cost));
    run->drafts.erase(std::find_first_of(run->drafts.begin(), run->drafts.end(),
                                         request.stopTokens.begin(), request.stopTokens.end()),
                      run->drafts.end());
  }
}

// A waiting choice gets a sequence, and of its tokens what is cached. False if pages are short.
bool EngineLoop::begin(size_t index) {
  Run &run = *runs[index];
  Active &of = *run.of;
  Result<int32_t> sequence = session.addSequence(of.request.salt);
  if (!sequence)
    return false;
  int64_t cached = 0;
  const std::span<const int32_t> tokens =
      run.choice ? std::span<const int32_t>(run.choice->tokens()) : of.request.prompt;
  if (!wantsPromptRows(run))
    if (const auto attached = session.attach(*sequence, tokens))
      cached = *attached;
  run.sequence = *sequence;
  refreshPools();
  int64_t others = 0;
  for (const Task &task : tasks)
    others += task.running;
  if (Task task = taskOf(run); !scheduler.fits(task, pools, others)) {
    session.removeSequence(run.sequence);
    run.sequence = -1;
    refreshPools();
    return false;
  }
  if (!run.choice) {
    Result<Choice> choice = Choice::create(of.request, run.index, context);
    if (!choice) { // the options were checked before
      end(run, Finish::Failed, choice.error().message);
      return true;
    }
    run.choice = std::make_unique<Choice>(std::move(*choice));
    if (limits.drafts > 0)
      run.drafter.emplace().addPrompt(tokens);
    figures.prefixQueries += int64_t(tokens.size());
    figures.prefixHits += cached;
    shares.charge(of.share, double(tokens.size() - size_t(cached)));
    if (run.index == 0)
      of.cached = cached;
  }
  if (!of.begun) {
    of.begun = true;
    of.begin = Clock::now();
    figures.promptTokens += promptTokens(run);
  }
  if (of.running++ == 0)
    shares.addRunning(of.share, 1);
  return true;
}

// Takes the sequence from one that has it.
void EngineLoop::stop(Run &run) {
  session.removeSequence(run.sequence);
  run.sequence = -1;
  if (--run.of->running == 0)
    shares.addRunning(run.of->share, -1);
}

void EngineLoop::preempt(size_t index) {
  stop(*runs[index]);
  ++figures.preemptions;
  refreshPools();
}

// Begins and preempts as it takes to make a step.
Plan EngineLoop::schedule() {
  const auto refresh = [&] {
    std::erase_if(runs, [](const auto &run) { return run->ended; });
    tasks.clear();
    for (const auto &run : runs)
      tasks.push_back(taskOf(*run));
  };
  for (const auto &run : runs)
    run->waits = false;
  refresh();
  refreshPools();
  bool mayBegin = true;
  while (true) {
    Plan plan = scheduler.plan(tasks, pools, costs);
    if (plan.preempt) {
      mayBegin = false;
      preempt(*plan.preempt); // never the last one: the pools hold what one may have
    } else if (const auto next =
                   mayBegin && plan.room > 0 ? scheduler.next(tasks, shares.all()) : std::nullopt) {
      Run &run = *runs[*next];
      run.waits = soonCached(run);
      mayBegin = run.waits || begin(*next);
    } else {
      return plan;
    }
    refresh();
  }
}

} // namespace moe::server
