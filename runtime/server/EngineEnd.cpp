// What goes to clients, and how a choice and its request end.
#include "runtime/server/EngineLoop.h"

#include <algorithm>
#include <cmath>

namespace moe::server {

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

} // namespace moe::server
