// Figures in Prometheus' text format, version 0.0.4.
#ifndef MOE_RUNTIME_SERVER_PROMETHEUS_H
#define MOE_RUNTIME_SERVER_PROMETHEUS_H

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe::server {

// Counts values by upper bounds. One thread records, any thread reads.
class Histogram {
public:
  // `bounds` rise; values above the last are counted too.
  explicit Histogram(std::vector<double> bounds);

  void record(double value, uint64_t times = 1);

  const std::vector<double> &bounds() const { return limits; }
  // Values at most bounds()[i], and for i = bounds().size() all of them.
  std::vector<uint64_t> cumulative() const;
  double sum() const { return total.load(std::memory_order_relaxed); }

  // 1, 2, 5, 10, 20, 50, ... up to `largest`.
  static std::vector<double> oneTwoFive(double largest);

private:
  std::vector<double> limits;
  std::vector<std::atomic<uint64_t>> counts; // of each range alone
  std::atomic<double> total{0};
};

using Labels = std::vector<std::pair<std::string, std::string>>;

// Writes families one after another. All samples of a family follow its head, as the format asks.
class PrometheusText {
public:
  enum class Type { Counter, Gauge, Histogram };

  // Begins a family. `name`: of its samples; a counter's ends in _total.
  void family(std::string_view name, Type type, std::string_view help);
  void sample(const Labels &labels, double value);
  void sample(const Labels &labels, const Histogram &histogram);

  std::string take() { return std::move(out); }

  static constexpr const char *contentType = "text/plain; version=0.0.4; charset=utf-8";

private:
  void line(std::string_view suffix, const Labels &labels, std::string_view bound, double value);

  std::string name, out;
};

} // namespace moe::server

#endif
