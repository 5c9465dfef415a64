#include "runtime/server/Metrics.h"

#include <gtest/gtest.h>

#include <set>
#include <sstream>

namespace moe::server {
namespace {

// The text, taken apart as its readers do: samples by name with labels, types by family.
struct Parsed {
  std::map<std::string, double> samples;
  std::map<std::string, std::string> types;
};

Parsed parse(const std::string &text) {
  Parsed parsed;
  std::istringstream lines(text);
  std::string line, family;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string mark, kind;
    if (line.starts_with("# TYPE ")) {
      words >> mark >> kind >> family;
      EXPECT_FALSE(parsed.types.contains(family)) << family << " is there twice";
      words >> parsed.types[family];
    } else if (!line.starts_with("# HELP ")) {
      const size_t end = line.rfind(' ');
      const std::string sample = line.substr(0, end);
      EXPECT_TRUE(sample.starts_with(family)) << sample << " is amid " << family;
      EXPECT_FALSE(parsed.samples.contains(sample)) << sample << " is there twice";
      parsed.samples[sample] = std::stod(line.substr(end));
    }
  }
  return parsed;
}

ModelFigures figuresOf(const std::string &name, const EngineMetrics &metrics) {
  ModelFigures figures{name, "cpu:x86-64-v3, 2 threads", "abc",
                       {},   {"global", "chunked"},      &metrics};
  EngineStats &stats = figures.stats;
  stats.running = 3;
  stats.waiting = 2;
  stats.promptTokens = 100;
  stats.generatedTokens = 50;
  stats.finished[size_t(Finish::StopToken)] = 4;
  stats.finished[size_t(Finish::StopString)] = 1;
  stats.finished[size_t(Finish::Length)] = 7;
  stats.finished[size_t(Finish::Cancelled)] = 2;
  stats.finished[size_t(Finish::Failed)] = 1;
  stats.preemptions = 9;
  stats.prefixQueries = 100;
  stats.prefixHits = 64;
  stats.pools = {{100, 50, 40, 10}, {20, 5, 5, 10}};
  return figures;
}

TEST(Metrics, HaveTheNamesThatDashboardsAskFor) {
  EngineMetrics metrics(1000);
  const ModelFigures figures[] = {figuresOf("cria", metrics)};
  const Parsed parsed = parse(metricsText(figures, {5, 1e9}));
  for (const char *name : {"vllm:num_requests_running", "vllm:num_requests_waiting",
                           "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"})
    EXPECT_EQ(parsed.types.at(name), "gauge") << name;
  for (const char *name : {"vllm:prompt_tokens_total", "vllm:generation_tokens_total",
                           "vllm:request_success_total", "vllm:prefix_cache_queries_total",
                           "vllm:prefix_cache_hits_total", "vllm:num_preemptions_total"})
    EXPECT_EQ(parsed.types.at(name), "counter") << name;
  for (const char *name :
       {"vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds",
        "vllm:e2e_request_latency_seconds", "vllm:request_queue_time_seconds",
        "vllm:request_prefill_time_seconds", "vllm:request_decode_time_seconds",
        "vllm:request_prompt_tokens", "vllm:request_generation_tokens",
        "vllm:iteration_tokens_total", "vllm:request_params_n", "vllm:request_params_max_tokens",
        "vllm:request_max_num_generation_tokens"})
    EXPECT_EQ(parsed.types.at(name), "histogram") << name;
  const std::string of = "{model_name=\"cria\",engine=\"0\"";
  EXPECT_EQ(parsed.samples.at("vllm:num_requests_running" + of + "}"), 3);
  EXPECT_EQ(parsed.samples.at("vllm:num_requests_waiting" + of + "}"), 2);
  EXPECT_EQ(parsed.samples.at("vllm:kv_cache_usage_perc" + of + "}"), 0.5); // of the fuller pool
  EXPECT_EQ(parsed.samples.at("vllm:prefix_cache_hits_total" + of + "}"), 64);
  const std::string success = "vllm:request_success_total" + of + ",finished_reason=\"";
  EXPECT_EQ(parsed.samples.at(success + "stop\"}"), 5);
  EXPECT_EQ(parsed.samples.at(success + "length\"}"), 7);
  EXPECT_EQ(parsed.samples.at(success + "abort\"}"), 2);
  EXPECT_EQ(parsed.samples.at(success + "error\"}"), 1);
  EXPECT_EQ(parsed.samples.at("vllm:cache_config_info" + of +
                              ",block_size=\"64\",num_gpu_blocks=\"100\"}"),
            1);
  EXPECT_EQ(
      parsed.samples.at("moe_kv_pages{model_name=\"cria\",pool=\"chunked\",state=\"cached\"}"), 5);
  EXPECT_EQ(parsed.samples.at("moe_connections"), 5);
  EXPECT_EQ(parsed.samples.at("process_start_time_seconds"), 1e9);
  EXPECT_GT(parsed.samples.at("process_resident_memory_bytes"), 1e5);
  EXPECT_GE(parsed.samples.at("process_open_fds"), 3);
}

TEST(Metrics, RecordWhatTheEngineTells) {
  EngineMetrics metrics(1000);
  metrics.onStep(5, 2, 0.004, 8);
  metrics.onStep(8, 8, 0.006, 8);
  metrics.onStep(1, 1, 0.002, 1);
  metrics.onFirstToken(0.03);
  metrics.onInterToken(0.003);
  metrics.onFinish({0.1, 0.2, 0.7, 1, 12, 20, Finish::Length});
  metrics.onEnd({.choices = 3, .maxTokens = 400, .longest = 20});
  metrics.onFinish({3, 0, 0, 3, 12, 0, Finish::QueueDeadline}); // was never begun
  metrics.onEnd({.choices = 1, .maxTokens = 10, .longest = 0});
  const ModelFigures figures[] = {figuresOf("cria", metrics), figuresOf("mid", metrics)};
  const Parsed parsed = parse(metricsText(figures, {}));
  for (const char *model : {"cria", "mid"}) {
    const std::string name = std::string("{model_name=\"") + model + "\"",
                      of = name + ",engine=\"0\"";
    EXPECT_EQ(parsed.samples.at("vllm:e2e_request_latency_seconds_count" + of + "}"), 1);
    EXPECT_EQ(parsed.samples.at("vllm:e2e_request_latency_seconds_sum" + of + "}"), 1);
    EXPECT_EQ(parsed.samples.at("vllm:time_to_first_token_seconds_bucket" + of + ",le=\"0.02\"}"),
              0);
    EXPECT_EQ(parsed.samples.at("vllm:time_to_first_token_seconds_bucket" + of + ",le=\"0.04\"}"),
              1);
    EXPECT_EQ(parsed.samples.at("vllm:iteration_tokens_total_sum" + of + "}"), 14);
    for (const auto &[metric, bound, sum] :
         {std::tuple("vllm:request_params_n", "5.0", 3),
          {"vllm:request_params_max_tokens", "500.0", 400},
          {"vllm:request_max_num_generation_tokens", "20.0", 20}}) {
      EXPECT_EQ(parsed.samples.at(std::string(metric) + "_count" + of + "}"), 1) << metric;
      EXPECT_EQ(parsed.samples.at(std::string(metric) + "_sum" + of + "}"), sum) << metric;
      EXPECT_EQ(parsed.samples.at(std::string(metric) + "_bucket" + of + ",le=\"" + bound + "\"}"),
                1)
          << metric;
    }
    // vLLM's bounds are all there, so that what adds up servers of both kinds stays right.
    for (const char *bound : {"0.01", "0.025", "0.05", "0.1", "0.5", "1.0", "10.0", "80.0"})
      EXPECT_TRUE(parsed.samples.contains("vllm:inter_token_latency_seconds_bucket" + of +
                                          ",le=\"" + bound + "\"}"))
          << bound;
    EXPECT_EQ(parsed.samples.at("moe_step_seconds_count" + name + ",program=\"8\"}"), 2);
    EXPECT_EQ(parsed.samples.at("moe_step_seconds_count" + name + ",program=\"1\"}"), 1);
    EXPECT_EQ(parsed.samples.at("moe_step_fill_ratio_bucket" + name + ",le=\"0.7\"}"), 1);
  }
}

TEST(Metrics, AModelWithoutACacheUsesNone) {
  EngineMetrics metrics(10);
  ModelFigures figures{"a", "", "", {}, {}, &metrics};
  const Parsed parsed = parse(metricsText({&figures, 1}, {}));
  EXPECT_EQ(parsed.samples.at("vllm:kv_cache_usage_perc{model_name=\"a\",engine=\"0\"}"), 0);
}

} // namespace
} // namespace moe::server
