// What a server tells of itself at /metrics: under vLLM's names, so that its dashboards, schedulers
// and benchmarks read it as they are, and under names of our own what vLLM has no name for.
#ifndef MOE_RUNTIME_SERVER_METRICS_H
#define MOE_RUNTIME_SERVER_METRICS_H

#include "runtime/server/Engine.h"
#include "runtime/server/Prometheus.h"

#include <functional>
#include <map>
#include <mutex>

namespace moe::server {

// The figures of one model's engine. It records on the engine's thread; any other reads.
class EngineMetrics final : public EngineObserver {
public:
  // `afterStep`, which may be null, is called at the end of each step.
  explicit EngineMetrics(int64_t context, std::function<void()> afterStep = nullptr);

  void onStep(int64_t tokens, int64_t rows, double seconds, int32_t program) override;
  void onFirstToken(double seconds) override { firstToken.record(seconds); }
  void onInterToken(double seconds) override { interToken.record(seconds); }
  void onFinish(const Timings &timings) override;
  void onEnd(const Ended &request) override;

  Histogram firstToken, interToken, whole, queue, prefill, decode; // seconds
  Histogram promptTokens, generatedTokens, stepTokens;
  Histogram choices, maxTokens, longest; // of a request: EngineObserver::Ended
  Histogram stepFill;                    // tokens of a step as a part of its program's

  // Seconds of steps, by the tokens that their program has room for. From any thread.
  std::map<int32_t, const Histogram *> stepSeconds() const;

private:
  std::function<void()> afterStep;
  mutable std::mutex mutex; // of `steps`, whose histograms stay where they are
  std::map<int32_t, Histogram> steps;
};

// A model at the time of asking.
struct ModelFigures {
  std::string name, target; // "cria", "cpu:x86-64-v4, 2 threads"
  std::string planHash;
  EngineStats stats;
  std::vector<std::string> pools; // names of stats.pools
  const EngineMetrics *metrics;
};

// Of the process, from /proc; what cannot be read is left out.
struct ProcessFigures {
  size_t connections = 0;
  double startSeconds = 0; // since 1970
};

std::string metricsText(std::span<const ModelFigures> models, const ProcessFigures &process);

} // namespace moe::server

#endif
