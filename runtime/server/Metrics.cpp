// Names, help and bounds of vLLM's are those of vllm/v1/metrics/loggers.py and
// docs/design/metrics.md.
#include "runtime/server/Metrics.h"

#include <algorithm>
#include <cstdio>
#include <dirent.h>
#include <functional>
#include <sys/resource.h>
#include <unistd.h>

namespace moe::server {
namespace {

using Type = PrometheusText::Type;

const std::vector<double> firstTokenBounds{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                           0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,
                                           20,    40,    80,   160,  640,  2560};
// vLLM's, and finer ones below its least, 0.01: a small model is faster. Quantiles of a dashboard
// are computed from whatever bounds there are, and a sum over servers has all of vLLM's.
const std::vector<double> interTokenBounds{
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
    0.3,    0.4,     0.5,    0.75,  1,      2.5,   5,    7.5,   10,   20,    40,  80};
const std::vector<double> latencyBounds{0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                        30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
const std::vector<double> stepTokenBounds{1,   8,    16,   32,   64,   128,  256,
                                          512, 1024, 2048, 4096, 8192, 16384};
const std::vector<double> choiceBounds{1, 2, 5, 10, 20};
const std::vector<double> fillBounds{0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1};

// vLLM's word for why a request ended. Its counter has those that were served.
const char *finishedReason(Finish finish) {
  switch (finish) {
  case Finish::StopToken:
  case Finish::StopString:
  case Finish::Grammar:
    return "stop";
  case Finish::Length:
    return "length";
  case Finish::Cancelled:
  case Finish::Deadline:
  case Finish::QueueDeadline:
    return "abort";
  case Finish::Failed:
    return "error";
  }
  return "";
}

double usageOf(const EngineStats &stats) {
  double fullest = 0;
  for (const EngineStats::Pool &pool : stats.pools)
    if (pool.pages)
      fullest = std::max(fullest, double(pool.held) / double(pool.pages));
  return fullest;
}

// The families of all models, one after another.
class Writer {
public:
  explicit Writer(std::span<const ModelFigures> models) : models(models) {}

  static Labels labelsOf(const ModelFigures &model) {
    return {{"model_name", model.name}, {"engine", "0"}};
  }

  void value(const char *name, Type type, const char *help,
             const std::function<double(const ModelFigures &)> &valueOf) {
    text.family(name, type, help);
    for (const ModelFigures &model : models)
      text.sample(labelsOf(model), valueOf(model));
  }

  void histogram(const char *name, const char *help, Histogram EngineMetrics::*histogram) {
    text.family(name, Type::Histogram, help);
    for (const ModelFigures &model : models)
      text.sample(labelsOf(model), model.metrics->*histogram);
  }

  void vllm();
  void own();
  void process(const ProcessFigures &figures);

  PrometheusText text;

private:
  std::span<const ModelFigures> models;
};

void Writer::vllm() {
  using Figures = const ModelFigures &;
  value("vllm:num_requests_running", Type::Gauge, "Requests that run.",
        [](Figures m) { return double(m.stats.running); });
  value("vllm:num_requests_waiting", Type::Gauge, "Requests that wait.",
        [](Figures m) { return double(m.stats.waiting); });
  for (const char *name : {"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"})
    value(name, Type::Gauge,
          "Pages of the KV cache that sequences hold, of the fuller pool: 1 is all.",
          [](Figures m) { return usageOf(m.stats); });
  value("vllm:prompt_tokens_total", Type::Counter, "Tokens of prompts.",
        [](Figures m) { return double(m.stats.promptTokens); });
  value("vllm:generation_tokens_total", Type::Counter, "Tokens generated.",
        [](Figures m) { return double(m.stats.generatedTokens); });
  value("vllm:prefix_cache_queries_total", Type::Counter,
        "Prompt tokens looked up in the prefix cache.",
        [](Figures m) { return double(m.stats.prefixQueries); });
  value("vllm:prefix_cache_hits_total", Type::Counter, "Prompt tokens found there.",
        [](Figures m) { return double(m.stats.prefixHits); });
  value("vllm:num_preemptions_total", Type::Counter,
        "Requests that gave their pages back and began again.",
        [](Figures m) { return double(m.stats.preemptions); });

  text.family("vllm:request_success_total", Type::Counter, "Answers, by why they ended.");
  for (Figures model : models) {
    std::map<std::string, double> reasons;
    for (size_t i = 0; i < kFinishes; ++i)
      reasons[finishedReason(Finish(i))] += double(model.stats.finished[i]);
    for (const auto &[reason, count] : reasons) {
      Labels labels = labelsOf(model);
      labels.push_back({"finished_reason", reason});
      text.sample(labels, count);
    }
  }

  histogram("vllm:time_to_first_token_seconds", "Time to the first token.",
            &EngineMetrics::firstToken);
  histogram("vllm:inter_token_latency_seconds", "Time between tokens.", &EngineMetrics::interToken);
  histogram("vllm:time_per_output_token_seconds", "The same under vLLM's older name.",
            &EngineMetrics::interToken);
  histogram("vllm:e2e_request_latency_seconds", "Time of a whole request.", &EngineMetrics::whole);
  histogram("vllm:request_queue_time_seconds", "Time that a request waits.", &EngineMetrics::queue);
  histogram("vllm:request_prefill_time_seconds", "Time from there to the first token.",
            &EngineMetrics::prefill);
  histogram("vllm:request_decode_time_seconds", "Time from there to the last one.",
            &EngineMetrics::decode);
  histogram("vllm:request_prompt_tokens", "Tokens of a prompt.", &EngineMetrics::promptTokens);
  histogram("vllm:request_generation_tokens", "Tokens of an answer.",
            &EngineMetrics::generatedTokens);
  histogram("vllm:request_params_n", "Answers that a request asks for.", &EngineMetrics::choices);
  histogram("vllm:request_params_max_tokens", "Tokens that it asks for at most in each.",
            &EngineMetrics::maxTokens);
  histogram("vllm:request_max_num_generation_tokens", "Tokens of its longest answer.",
            &EngineMetrics::longest);
  histogram("vllm:iteration_tokens_total", "Tokens of a step.", &EngineMetrics::stepTokens);

  text.family("vllm:cache_config_info", Type::Gauge,
              "The KV cache; num_gpu_blocks is of its largest pool.");
  for (Figures model : models) {
    int64_t most = 0;
    for (const EngineStats::Pool &pool : model.stats.pools)
      most = std::max(most, pool.pages);
    Labels labels = labelsOf(model);
    labels.push_back({"block_size", "64"});
    labels.push_back({"num_gpu_blocks", std::to_string(most)});
    text.sample(labels, 1);
  }
}

void Writer::own() {
  text.family("moe_plan_info", Type::Gauge, "The plan that is served, and where it runs.");
  for (const ModelFigures &model : models)
    text.sample({{"model_name", model.name}, {"hash", model.planHash}, {"target", model.target}},
                1);

  text.family("moe_kv_pages", Type::Gauge, "Pages of 64 positions, by pool and what they hold.");
  for (const ModelFigures &model : models)
    for (size_t i = 0; i < model.stats.pools.size(); ++i) {
      const EngineStats::Pool &pool = model.stats.pools[i];
      const std::string name = i < model.pools.size() ? model.pools[i] : std::to_string(i);
      for (const auto &[state, pages] :
           {std::pair("free", pool.free), {"cached", pool.cached}, {"held", pool.held}})
        text.sample({{"model_name", model.name}, {"pool", name}, {"state", state}}, double(pages));
    }

  text.family("moe_step_seconds", Type::Histogram,
              "Time of a step, by the tokens its program has room for.");
  for (const ModelFigures &model : models)
    for (const auto &[program, seconds] : model.metrics->stepSeconds())
      text.sample({{"model_name", model.name}, {"program", std::to_string(program)}}, *seconds);
  text.family("moe_step_fill_ratio", Type::Histogram,
              "Tokens of a step, of those its program has room for.");
  for (const ModelFigures &model : models)
    text.sample({{"model_name", model.name}}, model.metrics->stepFill);
}

void Writer::process(const ProcessFigures &figures) {
  const auto add = [&](const char *name, Type type, const char *help, double value) {
    text.family(name, type, help);
    text.sample({}, value);
  };
  add("moe_connections", Type::Gauge, "Open connections.", double(figures.connections));
  add("process_start_time_seconds", Type::Gauge, "When the process began, since 1970.",
      figures.startSeconds);
  rusage usage = {};
  if (getrusage(RUSAGE_SELF, &usage) == 0)
    add("process_cpu_seconds_total", Type::Counter, "Processor time of the process.",
        double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
            double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
  if (std::FILE *file = std::fopen("/proc/self/statm", "re")) {
    unsigned long size = 0, resident = 0;
    if (std::fscanf(file, "%lu %lu", &size, &resident) == 2)
      add("process_resident_memory_bytes", Type::Gauge,
          "Memory of the process, the plan's as well.",
          double(resident) * double(sysconf(_SC_PAGESIZE)));
    std::fclose(file);
  }
  if (DIR *folder = opendir("/proc/self/fd")) {
    int count = -3; // . and .., and the folder itself
    while (readdir(folder))
      ++count;
    closedir(folder);
    add("process_open_fds", Type::Gauge, "Open descriptors.", count);
  }
}

} // namespace

EngineMetrics::EngineMetrics(int64_t context, std::function<void()> afterStep)
    : firstToken(firstTokenBounds), interToken(interTokenBounds), whole(latencyBounds),
      queue(latencyBounds), prefill(latencyBounds), decode(latencyBounds),
      promptTokens(Histogram::oneTwoFive(double(context))),
      generatedTokens(Histogram::oneTwoFive(double(context))), stepTokens(stepTokenBounds),
      choices(choiceBounds), maxTokens(Histogram::oneTwoFive(double(context))),
      longest(Histogram::oneTwoFive(double(context))), stepFill(fillBounds),
      afterStep(std::move(afterStep)) {}

void EngineMetrics::onStep(int64_t tokens, int64_t, double seconds, int32_t program) {
  stepTokens.record(double(tokens));
  stepFill.record(double(tokens) / double(std::max(program, 1)));
  Histogram *histogram;
  {
    const std::lock_guard lock(mutex);
    histogram = &steps.try_emplace(program, interTokenBounds).first->second;
  }
  histogram->record(seconds);
  if (afterStep)
    afterStep();
}

void EngineMetrics::onFinish(const Timings &timings) {
  if (timings.generatedTokens == 0) // was never begun, or was cancelled before its first token
    return;
  whole.record(timings.whole);
  queue.record(timings.queue);
  prefill.record(timings.prefill);
  decode.record(timings.decode);
  promptTokens.record(double(timings.promptTokens));
  generatedTokens.record(double(timings.generatedTokens));
}

void EngineMetrics::onEnd(const Ended &request) {
  if (request.longest == 0) // as above
    return;
  choices.record(double(request.choices));
  maxTokens.record(double(request.maxTokens));
  longest.record(double(request.longest));
}

std::map<int32_t, const Histogram *> EngineMetrics::stepSeconds() const {
  const std::lock_guard lock(mutex);
  std::map<int32_t, const Histogram *> all;
  for (const auto &[program, seconds] : steps)
    all[program] = &seconds;
  return all;
}

std::string metricsText(std::span<const ModelFigures> models, const ProcessFigures &process) {
  Writer writer(models);
  writer.vllm();
  writer.own();
  writer.process(process);
  return writer.text.take();
}

} // namespace moe::server
