// For tests of what is built on an engine: sessions whose model writes a given answer, and sinks
// that keep what they are told.
#ifndef MOE_RUNTIME_SERVER_TESTENGINE_H
#define MOE_RUNTIME_SERVER_TESTENGINE_H

#include "runtime/server/Engine.h"
#include "runtime/session/TestExecutor.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace moe::server {

// The id that follows all tokens so far: the prompt's and those of the answer. Below zero: the
// model breaks, its logits are no numbers.
using Script = std::function<int32_t(std::span<const int32_t> history)>;

// Writes `answer`, then `stop` for ever. The answer is taken to have begun where the history ends
// as it begins, the longest such end: so a prompt should not end as the answer begins.
inline Script answering(std::vector<int32_t> answer, int32_t stop) {
  return [answer = std::move(answer), stop](std::span<const int32_t> history) {
    if (!history.empty() && history.back() == stop)
      return stop;
    for (size_t written = std::min(answer.size(), history.size()); written > 0; --written)
      if (std::equal(answer.begin(), answer.begin() + std::ptrdiff_t(written),
                     history.end() - std::ptrdiff_t(written)))
        return written < answer.size() ? answer[written] : stop;
    return answer.empty() ? stop : answer[0];
  };
}

// Its logits are 20 for what the script says and 0 for all others. It reads the history back
// through the block table of a pool without chunks, as attention would.
class ScriptedExecutor final : public Executor {
public:
  // What a test may change while it runs.
  struct Control {
    std::atomic<int64_t> microseconds{0}; // that a step takes at least
    std::atomic<int> failures{0};         // so many of the next steps fail
    std::atomic<int64_t> steps{0};        // that were run
  };

  ScriptedExecutor(const SessionModel &model, const ExecutorOptions &options, int32_t rows,
                   Script script, std::shared_ptr<Control> control)
      : model(model), options(options), rows(rows), script(std::move(script)),
        control(std::move(control)), cells(size_t(options.poolPages[0]) * 64) {}

  Status run(const Step &step) override {
    ++control->steps;
    std::this_thread::sleep_for(std::chrono::microseconds(control->microseconds));
    if (control->failures > 0) {
      --control->failures;
      return Error{Code::Unavailable, "the device broke"};
    }
    const StepBinding &b = model.binding;
    const auto ids = valuesOf(step, *b.tokens), positions = valuesOf(step, *b.positions),
               sequences = valuesOf(step, *b.sequences), wanted = valuesOf(step, *b.rows),
               table = valuesOf(step, b.tables[0].input);
    const auto cell = [&](int32_t sequence, int64_t position) -> int32_t & {
      const int32_t page = table[size_t(sequence) * options.tableStride + position / 64];
      return cells[size_t(page) * 64 + position % 64];
    };
    for (int32_t i = 0; i < step.tokens; ++i)
      cell(sequences[i], positions[i]) = ids[i];
    logits.assign(size_t(step.rows) * model.vocab, 0);
    std::vector<int32_t> history;
    for (int32_t r = 0; r < step.rows; ++r) {
      history.clear();
      for (int64_t position = 0; position <= positions[wanted[r]]; ++position)
        history.push_back(cell(sequences[wanted[r]], position));
      const std::span<float> row = std::span(logits).subspan(size_t(r) * model.vocab, model.vocab);
      if (const int32_t id = script(history); id >= 0)
        row[size_t(id)] = 20;
      else
        std::fill(row.begin(), row.end(), std::numeric_limits<float>::quiet_NaN());
    }
    return ok();
  }
  std::span<const std::byte> output(uint32_t) const override {
    return std::as_bytes(std::span(logits));
  }
  int32_t maxTokens() const override { return model.maxStep; }
  int32_t maxRows() const override { return rows; }
  std::string description() const override { return "scripted"; }

private:
  static std::span<const int32_t> valuesOf(const Step &step, uint32_t input) {
    const std::span<const std::byte> bytes = step.inputs[input];
    return {reinterpret_cast<const int32_t *>(bytes.data()), bytes.size() / sizeof(int32_t)};
  }

  SessionModel model;
  ExecutorOptions options;
  int32_t rows;
  Script script;
  std::shared_ptr<Control> control;
  std::vector<int32_t> cells; // the id at each position of each page
  std::vector<float> logits;
};

// One pool without chunks, one of 128 positions.
inline SessionModel scriptedModel(int64_t vocab, int64_t positions = 4096, int32_t maxStep = 64) {
  SessionModel model;
  model.vocab = vocab;
  model.maxPositions = positions;
  model.maxStep = maxStep;
  model.pools = {{"global", 0, 64, 1024}, {"chunked", 128, 64, 4096}};
  model.binding = *bindStep(fakePlan(model.pools, uint32_t(vocab), false), vocab, model.hiddenSize);
  return model;
}

inline Result<Session> scriptedSession(const SessionModel &model, const SessionOptions &options,
                                       Script script,
                                       std::shared_ptr<ScriptedExecutor::Control> control =
                                           std::make_shared<ScriptedExecutor::Control>()) {
  return Session::create(
      model, options, [&](const ExecutorOptions &executor) -> Result<std::unique_ptr<Executor>> {
        return std::unique_ptr<Executor>(
            std::make_unique<ScriptedExecutor>(model, executor, 32, script, control));
      });
}

// Keeps the events of one request. From any thread.
class CollectingSink final : public EventSink {
public:
  explicit CollectingSink(int32_t choices = 1) : answers(size_t(choices)) {}

  struct Answer {
    std::vector<Event> events;
    std::vector<int32_t> tokens;
    std::string text;
    std::optional<Finish> finish;
  };

  void onEvent(Event event) override {
    std::lock_guard lock(mutex);
    Answer &answer = answers.at(size_t(event.choice));
    afterEnd = afterEnd || answer.finish.has_value();
    for (const TokenEvent &token : event.tokens)
      answer.tokens.push_back(token.token);
    answer.text += event.text;
    answer.finish = event.finish;
    answer.events.push_back(std::move(event));
    changed.notify_all();
  }

  // Until all choices have ended.
  bool wait(std::chrono::seconds limit = std::chrono::seconds(60)) {
    return waitFor(limit, [&] {
      return std::all_of(answers.begin(), answers.end(),
                         [](const Answer &answer) { return answer.finish.has_value(); });
    });
  }
  // Until choice 0 has so many tokens.
  bool waitForTokens(size_t count, std::chrono::seconds limit = std::chrono::seconds(60)) {
    return waitFor(limit, [&] { return answers[0].tokens.size() >= count; });
  }
  Answer answer(int32_t choice = 0) const {
    std::lock_guard lock(mutex);
    return answers.at(size_t(choice));
  }
  bool toldAfterEnd() const { // an event after a choice's last
    std::lock_guard lock(mutex);
    return afterEnd;
  }

private:
  template <typename F> bool waitFor(std::chrono::seconds limit, F &&done) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, limit, done);
  }

  mutable std::mutex mutex;
  std::condition_variable changed;
  std::vector<Answer> answers;
  bool afterEnd = false;
};

// Delivers to the sinks on the engine's thread.
inline void deliverAtOnce(std::vector<Engine::Delivery> deliveries) {
  for (Engine::Delivery &delivery : deliveries)
    delivery.sink->onEvent(std::move(delivery.event));
}

} // namespace moe::server

#endif
