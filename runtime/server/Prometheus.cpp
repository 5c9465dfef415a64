// Numbers are printed as Prometheus' own client for Python prints them, since dashboards select
// buckets by the text of their bound: 1.0, not 1.
#include "runtime/server/Prometheus.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace moe::server {
namespace {

std::string numberText(double value) {
  if (std::isnan(value))
    return "NaN";
  if (std::isinf(value))
    return value > 0 ? "+Inf" : "-Inf";
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  std::string digits(text, end);
  if (digits.find_first_of(".e") == std::string::npos)
    digits += ".0";
  return digits;
}

// A label's value between quotes, or a help text: line ends, backslashes and quotes are escaped.
std::string escaped(std::string_view text, bool quotes) {
  std::string out;
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '\\' || (quotes && c == '"'))
      out += '\\';
    out += c;
  }
  return out;
}

const char *nameOf(PrometheusText::Type type) {
  switch (type) {
  case PrometheusText::Type::Counter:
    return "counter";
  case PrometheusText::Type::Gauge:
    return "gauge";
  case PrometheusText::Type::Histogram:
    return "histogram";
  }
  return "";
}

} // namespace

Histogram::Histogram(std::vector<double> bounds)
    : limits(std::move(bounds)), counts(limits.size() + 1) {}

void Histogram::record(double value, uint64_t times) {
  const auto range = std::lower_bound(limits.begin(), limits.end(), value) - limits.begin();
  counts[size_t(range)].fetch_add(times, std::memory_order_relaxed);
  total.store(sum() + value * double(times), std::memory_order_relaxed);
}

std::vector<uint64_t> Histogram::cumulative() const {
  std::vector<uint64_t> sums;
  uint64_t sum = 0;
  for (const std::atomic<uint64_t> &count : counts)
    sums.push_back(sum += count.load(std::memory_order_relaxed));
  return sums;
}

std::vector<double> Histogram::oneTwoFive(double largest) {
  std::vector<double> bounds;
  for (double power = 1;; power *= 10)
    for (const double digit : {1., 2., 5.}) {
      if (digit * power > largest)
        return bounds;
      bounds.push_back(digit * power);
    }
}

void PrometheusText::family(std::string_view familyName, Type type, std::string_view help) {
  name = familyName;
  out += "# HELP " + name + " " + escaped(help, false) + "\n";
  out += "# TYPE " + name + " " + nameOf(type) + "\n";
}

void PrometheusText::line(std::string_view suffix, const Labels &labels, std::string_view bound,
                          double value) {
  out += name;
  out += suffix;
  char separator = '{';
  const auto add = [&](std::string_view label, std::string_view text) {
    out += separator;
    out += label;
    out += "=\"" + escaped(text, true) + "\"";
    separator = ',';
  };
  for (const auto &[label, text] : labels)
    add(label, text);
  if (!bound.empty())
    add("le", bound);
  out += separator == '{' ? " " : "} ";
  out += numberText(value) + "\n";
}

void PrometheusText::sample(const Labels &labels, double value) { line("", labels, "", value); }

void PrometheusText::sample(const Labels &labels, const Histogram &histogram) {
  const std::vector<uint64_t> counts = histogram.cumulative();
  for (size_t i = 0; i < histogram.bounds().size(); ++i)
    line("_bucket", labels, numberText(histogram.bounds()[i]), double(counts[i]));
  line("_bucket", labels, "+Inf", double(counts.back()));
  line("_count", labels, "", double(counts.back()));
  line("_sum", labels, "", histogram.sum());
}

} // namespace moe::server
