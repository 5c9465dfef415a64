// What comes to an engine's thread, the steps that it makes of it, and what it says of itself.
#include "runtime/server/EngineLoop.h"

#include <algorithm>

namespace moe::server {
namespace {

SchedulerLimits schedulerLimits(const Session &session, const EngineLimits &limits) {
  SchedulerLimits result;
  result.maxStep = session.maxStep();
  result.maxRows = session.maxRows();
  result.maxTasks = std::min({session.maxSequences(), session.maxStep(), session.maxRows()});
  result.itlStretch = limits.itlStretch;
  result.promptShare = limits.promptShare;
  result.maxPerKey = limits.maxPerKey;
  return result;
}

} // namespace

EngineLoop::EngineLoop(Session given, const Tokenizer *tokenizer, const EngineLimits &limits,
                       EngineObserver *observer)
    : session(std::move(given)), limits(limits), observer(observer),
      scheduler(schedulerLimits(session, limits)) {
  refreshPools();
  context = {tokenizer, session.vocab(), Scheduler::capacity(pools, session.context()),
             Sampler::makeWorkspace(session.vocab())};
}

ServedModel EngineLoop::model() const {
  return {context.vocab, context.context, context.tokenizer != nullptr, session.hidden() > 0};
}

Status EngineLoop::measure(std::chrono::milliseconds limit) {
  const Clock::time_point start = Clock::now(), stop = start + limit;
  const std::vector<int32_t> tokens(size_t(std::min<int64_t>(session.maxStep(), context.context)),
                                    0);
  for (size_t size = 1; size <= tokens.size(); size *= 2)
    for (int round = 0; round < 3; ++round) { // the first one touches memory
      const Clock::time_point before = Clock::now();
      if (before + std::chrono::duration<double>(2 * costs.of(int64_t(size))) > stop)
        return ok();
      MOE_ASSIGN(sequence, session.addSequence(kOwnSalt));
      const auto logits = session.append(sequence, std::span(tokens).first(size));
      session.removeSequence(sequence);
      if (!logits)
        return logits.error();
      if (round > 0)
        costs.observe(int64_t(size), seconds(Clock::now() - before));
    }
  return ok();
}

void EngineLoop::add(Arrival arrival) {
  auto of = std::make_shared<Active>();
  of->id = arrival.id;
  of->request = std::move(arrival.request);
  of->sink = std::move(arrival.sink);
  of->arrival = arrival.time;
  of->share = shares.enter(of->request.key);
  of->open = of->request.choices;
  if (of->request.embed)
    of->pooling.emplace(session.hidden());
  for (int32_t index = 0; index < of->request.choices; ++index)
    runs.push_back(std::make_unique<Run>(Run{of, index}));
}

void EngineLoop::cancel(RequestId id) {
  for (const auto &run : runs)
    if (run->of->id == id && !run->ended) {
      run->of->sink = nullptr; // nobody listens
      end(*run, Finish::Cancelled);
    }
}

void EngineLoop::endAll(Finish finish, const std::string &error) {
  for (const auto &run : runs)
    if (!run->ended)
      end(*run, finish, error);
  runs.clear();
}

Status EngineLoop::iterate() {
  endLate(Clock::now());
  propose();
  const Plan plan = schedule();
  if (!plan.parts.empty())
    runStep(plan);
  else if (!runs.empty()) // not to be seen, and not to go on for ever if it is
    endAll(Finish::Failed, "no step can be made for the requests that there are");
  std::erase_if(runs, [](const auto &run) { return run->ended; });
  if (broken)
    return *broken;
  return ok();
}

void EngineLoop::endLate(Clock::time_point now) {
  for (const auto &run : runs) {
    if (run->ended)
      continue;
    const Active &of = *run->of;
    if (of.request.deadline && now >= *of.request.deadline)
      end(*run, Finish::Deadline, "the request's time is over");
    else if (!of.begun && now - of.arrival > limits.maxQueue)
      end(*run, Finish::QueueDeadline,
          "the request waited for " + std::to_string(limits.maxQueue.count() / 1000) +
              " s without being begun");
  }
}

const EngineStats &EngineLoop::stats() {
  figures.running = figures.waiting = figures.waitingTokens = 0;
  const Active *last = nullptr;
  for (const auto &run : runs) { // a request's choices follow each other
    if (run->of.get() == last)
      continue;
    last = run->of.get();
    if (last->running > 0) {
      ++figures.running;
    } else {
      ++figures.waiting;
      figures.waitingTokens += promptTokens(*run);
    }
  }
  figures.pools.resize(session.pools());
  for (size_t pool = 0; pool < session.pools(); ++pool) {
    const PoolUse use = session.poolUse(pool);
    figures.pools[pool] = {use.pages, use.free, use.cached, use.held};
  }
  return figures;
}

} // namespace moe::server
