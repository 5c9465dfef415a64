// A step of the session, and what each of those who took part has of it. A step that fails takes
// with it those who were in it; the others are tried again once a step of one token has shown that
// the device works.
#include "runtime/server/EngineLoop.h"

#include <algorithm>

namespace moe::server {
namespace {

constexpr int kFailures = 3;        // steps in a row, after which the session is given up
constexpr double kRateMemory = 0.9; // of what prompts did in steps before
constexpr double kOutputWeight = 2; // of a token of an answer beside one of a prompt

} // namespace

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

} // namespace moe::server
