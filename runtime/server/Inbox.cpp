// Requests are checked before they are taken, so that what an engine works on can be served.
#include "runtime/server/Inbox.h"

#include <algorithm>
#include <cmath>

namespace moe::server {
namespace {

Error invalid(std::string message) { return {Code::InvalidArgument, std::move(message)}; }

std::string number(int64_t value) { return std::to_string(value); }

constexpr int32_t kMostLikely = 20;

} // namespace

std::optional<Error> Inbox::check(const Request &request) const {
  if (request.embed && !model.embeds)
    return Error{Code::Unimplemented,
                 "this plan gives no hidden states: compile the model with --embeddings"};
  const auto prompt = int64_t(request.prompt.size());
  if (prompt == 0)
    return invalid("the prompt has no tokens");
  for (int64_t i = 0; i < prompt; ++i)
    if (request.prompt[i] < 0 || request.prompt[i] >= model.vocab)
      return invalid("token " + number(i) + " of the prompt has id " + number(request.prompt[i]) +
                     ", the vocabulary ends at " + number(model.vocab - 1));
  if (request.maxTokens < -1 || request.minTokens < 0)
    return invalid("numbers of tokens cannot be negative");
  if (prompt > model.context)
    return invalid("the prompt has " + number(prompt) + " tokens, the context has room for " +
                   number(model.context));
  if (request.maxTokens > model.context - prompt)
    return invalid("the prompt's " + number(prompt) + " tokens and " + number(request.maxTokens) +
                   " of the answer do not fit in the context of " + number(model.context));
  if (request.maxTokens >= 0 && request.minTokens > request.maxTokens)
    return invalid("an answer of at least " + number(request.minTokens) + " tokens and at most " +
                   number(request.maxTokens) + " cannot be");
  if (request.embed && request.choices != 1)
    return invalid("a text has one embedding, not " + number(request.choices));
  if (request.choices < 1)
    return invalid("at least one choice must be asked for, not " + number(request.choices));
  for (const std::optional<int32_t> &most : {request.logprobs, request.promptLogprobs})
    if (most && (*most < 0 || *most > kMostLikely))
      return invalid("logprobs of " + number(*most) + " likely tokens were asked for, 0 to " +
                     number(kMostLikely) + " can be had");
  if (!request.stopStrings.empty() && !model.hasText)
    return invalid("stop strings need a plan with a tokenizer");
  for (int32_t token : request.stopTokens)
    if (token < 0 || token >= model.vocab)
      return invalid("stop token " + number(token) + " is not one, the vocabulary ends at " +
                     number(model.vocab - 1));
  if (auto sampler = Sampler::create(request.sampling, model.vocab); !sampler)
    return sampler.error();
  return std::nullopt;
}

// Whether a request more is too many. The caller holds the mutex.
std::optional<Refusal> Inbox::overload() const {
  const auto waiting = known.waiting + int64_t(box.arrivals.size());
  const auto tokens = double(known.waitingTokens + boxTokens);
  const double queue = std::chrono::duration<double>(limits.maxQueue).count();
  const double rate = known.prefillRate;
  const bool tooLong = waiting > 0 && rate > 0 && tokens > rate * queue;
  if (waiting < limits.maxWaiting && !tooLong)
    return std::nullopt;
  const double seconds = rate > 0 ? std::ceil(tokens / rate) : 1;
  return Refusal{{Code::ResourceExhausted, number(waiting) + " requests wait already"},
                 std::chrono::seconds(int64_t(std::clamp(seconds, 1.0, std::max(queue, 1.0))))};
}

std::variant<RequestId, Refusal> Inbox::submit(Request request, std::shared_ptr<EventSink> sink,
                                               Clock::time_point now) {
  std::optional<Error> wrong = check(request);
  std::lock_guard lock(mutex);
  if (broken)
    return Refusal{{Code::Unavailable, "the engine has failed: " + broken->message}};
  if (draining)
    return Refusal{{Code::Unavailable, "the engine is stopping and takes no more requests"},
                   std::chrono::seconds(1)};
  if (wrong)
    return Refusal{std::move(*wrong)};
  if (std::optional<Refusal> refusal = overload())
    return std::move(*refusal);
  ++open;
  boxTokens += int64_t(request.prompt.size());
  box.arrivals.push_back({++last, std::move(request), std::move(sink), now});
  wake.notify_one();
  return last;
}

void Inbox::cancel(RequestId id) {
  std::lock_guard lock(mutex);
  box.cancelled.push_back(id);
  wake.notify_one();
}

void Inbox::drain() {
  std::lock_guard lock(mutex);
  draining = true;
}

void Inbox::endAll(std::string reason) {
  std::lock_guard lock(mutex);
  draining = true;
  box.endAll = std::move(reason);
  wake.notify_one();
}

void Inbox::stop() {
  std::lock_guard lock(mutex);
  draining = true;
  box.stop = true;
  wake.notify_one();
}

bool Inbox::idle() const {
  std::lock_guard lock(mutex);
  return open == 0;
}

EngineStats Inbox::stats() const {
  std::lock_guard lock(mutex);
  EngineStats stats = known;
  stats.waiting += int64_t(box.arrivals.size());
  stats.waitingTokens += boxTokens;
  return stats;
}

std::optional<Error> Inbox::failure() const {
  std::lock_guard lock(mutex);
  return broken;
}

Inbox::Taken Inbox::take(bool wait) {
  std::unique_lock lock(mutex);
  if (wait)
    wake.wait(lock, [&] {
      return box.stop || box.endAll || !box.arrivals.empty() || !box.cancelled.empty();
    });
  Taken taken = std::exchange(box, {});
  box.stop = taken.stop;
  // What was taken waits still, until a report says otherwise.
  known.waiting += int64_t(taken.arrivals.size());
  known.waitingTokens += boxTokens;
  boxTokens = 0;
  return taken;
}

void Inbox::report(const EngineStats &now) {
  std::lock_guard lock(mutex);
  known = now;
}

void Inbox::ended(int64_t requests) {
  std::lock_guard lock(mutex);
  open -= requests;
}

std::vector<Arrival> Inbox::fail(Error error) {
  std::lock_guard lock(mutex);
  broken = std::move(error);
  boxTokens = 0;
  return std::exchange(box.arrivals, {});
}

} // namespace moe::server
