// A step that fails takes with it those who were in it. The others are tried again once a step of
// one token has shown that the device works.
#include "runtime/server/EngineLoop.h"

#include <algorithm>
#include <cmath>

namespace moe::server {
namespace {

constexpr int kFailures = 3;                // steps in a row, after which the session is given up
constexpr double kRateMemory = 0.9;         // of what prompts did in steps before
constexpr double kOutputWeight = 2.0;       // of a token of an answer beside one of a prompt
constexpr uint64_t kOwnSalt = ~uint64_t(0); // of sequences that are no client's

double seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

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

void EngineLoop::refreshPools() { pools = poolsOf(session); }

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

// What a run appends in its part of a step.
Append EngineLoop::appendOf(Run &run, const Plan::Part &part) {
  const Task &task = tasks[part.task];
  run.start = task.length;
  run.failed.reset();
  run.sampled.reset();
  run.drafts.resize(size_t(std::max<int64_t>(part.tokens - task.pending, 0)));
  Append append;
  append.sequence = run.sequence;
  append.rows = part.rows;
  append.tokens = std::span<const int32_t>(run.choice->tokens())
                      .subspan(size_t(task.length), size_t(std::min(part.tokens, task.pending)));
  if (!run.drafts.empty()) {
    run.fed.assign(append.tokens.begin(), append.tokens.end());
    run.fed.insert(run.fed.end(), run.drafts.begin(), run.drafts.end());
    append.tokens = run.fed;
    append.tentative = true;
  }
  append.hidden = run.of->request.embed;
  if (part.tokens < task.pending || !writes(run))
    return append;
  run.choice->prepare();
  if (part.rows == 1 && !task.everyRow && session.samplesOnDevice() && !run.choice->needsLogits() &&
      run.choice->sampler().draw()) {
    append.sampler = &run.choice->sampler();
    append.sampled = &run.sampled.emplace();
  }
  return append;
}

void EngineLoop::runStep(const Plan &plan) {
  appends.clear();
  Plan step; // without answers that their grammar has ended
  for (const Plan::Part &part : plan.parts) {
    Run &run = *runs[part.task];
    const Append append = appendOf(run, part);
    if (run.choice->finish()) {
      tell(run);
      continue;
    }
    appends.push_back(append);
    step.parts.push_back(part);
  }
  if (appends.empty())
    return;

  const Clock::time_point before = Clock::now();
  const Status done =
      session.run(appends, [&](size_t part, int64_t token, std::span<const float> logits) {
        Run &run = *runs[step.parts[part].task];
        if (Status told = row(run, tasks[step.parts[part].task].length + token, logits); !told)
          run.failed = told.error(); // the others' rows are to be had
        return ok();
      });
  const Clock::time_point now = Clock::now();
  if (!done)
    return recover(step, done.error());
  failures = 0;
  learn(step, seconds(now - before));
  for (const Plan::Part &part : step.parts)
    advance(*runs[part.task], now);
}

// What a row of the token at a position gives: logits, or a hidden state.
Status EngineLoop::row(Run &run, int64_t position, std::span<const float> values) {
  Active &of = *run.of;
  if (of.pooling) {
    if (position == of.pooling->tokens()) // and not computed again
      of.pooling->add(values);
    return ok();
  }
  if (wantsPromptRows(run))
    MOE_TRY(promptRow(of, position, values));
  Choice &choice = *run.choice;
  if (choice.finish() || position + 1 != int64_t(choice.tokens().size()) || !writes(run))
    return ok();
  if (position > run.start && !run.drafts.empty()) {
    if (choice.tokens().back() != run.drafts[size_t(position - run.start - 1)])
      return ok(); // behind a draft that did not come true
    choice.prepare();
    if (choice.finish())
      return ok();
  }
  MOE_ASSIGN(token, choice.choose(values));
  append(run, std::move(token));
  return ok();
}

// The logits behind a token of the prompt say how likely the next one was.
Status EngineLoop::promptRow(Active &of, int64_t position, std::span<const float> logits) {
  const std::vector<int32_t> &tokens = of.request.prompt;
  if (position < of.promptRows) // computed again
    return ok();
  if (position == 0)
    of.prompt.push_back({.token = tokens[0]});
  if (const auto next = size_t(position + 1); next < tokens.size()) {
    TokenEvent token{.token = tokens[next]};
    MOE_ASSIGN(logprob, logprobs(logits, token.token, *of.request.promptLogprobs, token.likely));
    token.logprob = logprob;
    of.prompt.push_back(std::move(token));
  }
  of.promptRows = position + 1;
  return ok();
}

void EngineLoop::append(Run &run, TokenEvent token) {
  if (run.drafter)
    run.drafter->add(token.token);
  run.choice->append(std::move(token));
}

// After a step in which the run took part.
void EngineLoop::advance(Run &run, Clock::time_point now) {
  Active &of = *run.of;
  Choice &choice = *run.choice;
  if (run.failed)
    return end(run, Finish::Failed, run.failed->message);
  if (run.sampled)
    append(run, {.token = *run.sampled});
  if (session.length(run.sequence) >= promptTokens(run)) {
    if (run.index == 0)
      of.promptDone = true;
    if (!writes(run))
      return endPrompt(run);
  }
  const int64_t fresh = choice.generated() - run.counted;
  if (!run.drafts.empty()) {
    figures.drafts += int64_t(run.drafts.size());
    figures.draftHits += std::max<int64_t>(fresh - 1, 0);
    // What was fed and did not come true is forgotten.
    if (!choice.finish() && !session.truncate(run.sequence, run.start + fresh))
      stop(run); // it is computed again
  }
  if (fresh > 0) {
    if (run.counted == 0) {
      run.first = now;
      if (observer)
        observer->onFirstToken(seconds(now - of.arrival));
    } else if (observer) {
      for (int64_t i = 0; i < fresh; ++i)
        observer->onInterToken(seconds(now - run.last) / double(fresh));
    }
    run.last = now;
    run.counted += fresh;
    figures.generatedTokens += fresh;
    shares.charge(of.share, kOutputWeight * double(fresh));
  }
  tell(run);
}

// One of which the prompt is all that is wanted.
void EngineLoop::endPrompt(Run &run) {
  Active &of = *run.of;
  if (!of.pooling)
    return end(run, Finish::Length);
  for (PoolingKind kind : {PoolingKind::Mean, PoolingKind::Last}) {
    const std::vector<float> &vector = of.embedding.emplace_back(of.pooling->result(kind));
    if (!std::all_of(vector.begin(), vector.end(), [](float x) { return std::isfinite(x); })) {
      of.embedding.clear();
      return end(run, Finish::Failed, "the model's hidden states are not all numbers");
    }
  }
  end(run, Finish::Length);
}

// What the choice has new goes to its client.
void EngineLoop::tell(Run &run) {
  Active &of = *run.of;
  Event event = run.choice->takeEvent();
  if (event.tokens.empty() && event.text.empty() && !event.finish)
    return;
  const std::optional<Finish> finish = event.finish;
  if (run.index == 0 && of.promptDone && !std::exchange(of.told, true)) {
    event.cachedTokens = of.cached;
    event.prompt = std::move(of.prompt);
    event.embedding = std::move(of.embedding);
  }
  if (of.sink)
    events.push_back({of.sink, std::move(event)});
  if (finish)
    retire(run, *finish);
}

void EngineLoop::end(Run &run, Finish finish, const std::string &error) {
  if (run.choice) {
    if (!run.choice->finish())
      run.choice->end(finish, error);
    return tell(run);
  }
  if (run.of->sink) {
    Event event;
    event.choice = run.index;
    event.finish = finish;
    event.error = error;
    events.push_back({run.of->sink, std::move(event)});
  }
  retire(run, finish);
}

void EngineLoop::retire(Run &run, Finish finish) {
  Active &of = *run.of;
  if (run.sequence >= 0)
    stop(run);
  run.ended = true;
  of.promptDone = of.promptDone || run.index == 0; // the other choices wait for it no longer
  ++figures.finished[size_t(finish)];
  if (observer) {
    const Clock::time_point now = Clock::now();
    const Clock::time_point begin = of.begun ? of.begin : now;
    const Clock::time_point first = run.counted > 0 ? run.first : now;
    EngineObserver::Timings timings;
    timings.queue = seconds(begin - of.arrival);
    timings.prefill = seconds(first - begin);
    timings.decode = seconds(now - first);
    timings.whole = seconds(now - of.arrival);
    timings.promptTokens = promptTokens(run);
    timings.generatedTokens = run.counted;
    timings.finish = finish;
    observer->onFinish(timings);
  }
  of.longest = std::max(of.longest, run.counted);
  if (--of.open == 0) {
    if (observer) {
      const int64_t room = context.context - promptTokens(run);
      const int64_t most = of.request.maxTokens < 0 ? room : of.request.maxTokens;
      observer->onEnd({of.request.choices, most, of.longest});
    }
    shares.leave(of.share);
    ++ended;
  }
}

void EngineLoop::learn(const Plan &step, double seconds) {
  int64_t tokens = 0, rows = 0, prompts = 0;
  for (const Plan::Part &part : step.parts) {
    tokens += part.tokens;
    rows += part.rows;
    if (!tasks[part.task].writing)
      prompts += part.tokens;
  }
  costs.observe(tokens, seconds);
  if (prompts > 0) {
    rateTokens = rateTokens * kRateMemory + double(prompts);
    rateSeconds = rateSeconds * kRateMemory + seconds;
    figures.prefillRate = rateSeconds > 0 ? rateTokens / rateSeconds : 0;
  }
  if (observer)
    observer->onStep(tokens, rows, seconds, session.programTokens(tokens, rows));
}

void EngineLoop::recover(const Plan &step, const Error &error) {
  if (error.code == Code::ResourceExhausted) { // no page, and nothing was done
    size_t youngest = step.parts[0].task;
    for (const Plan::Part &part : step.parts)
      youngest = std::max(youngest, part.task);
    if (step.parts.size() > 1)
      return preempt(youngest);
    return end(*runs[youngest], Finish::Failed, error.message);
  }
  const std::string message = "a step of the device failed: " + error.message;
  for (const Plan::Part &part : step.parts)
    for (const auto &run : runs) // the other choices as well
      if (run->of == runs[part.task]->of && !run->ended)
        end(*run, Finish::Failed, message);
  if (++failures < kFailures && probe())
    return;
  broken = error;
  endAll(Finish::Failed, message);
}

// Whether the device can still run a step.
Status EngineLoop::probe() {
  MOE_ASSIGN(sequence, session.addSequence(kOwnSalt));
  const int32_t token = 0;
  const auto logits = session.append(sequence, {&token, 1});
  session.removeSequence(sequence);
  if (!logits)
    return logits.error();
  return ok();
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
