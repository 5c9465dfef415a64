// What moe-run prints: standard output with its errors noticed, and JSON.
#ifndef MOE_TOOLS_MOE_RUN_OUTPUT_H
#define MOE_TOOLS_MOE_RUN_OUTPUT_H

#include "runtime/Status.h"

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unistd.h>

namespace moe {

// Writes to standard output and flushes it, so that text appears as it comes. Error: IoError.
Status print(std::string_view text);

// One JSON object, its members in the order of the calls.
class JsonObject {
public:
  void add(std::string_view name, std::string_view value);
  void add(std::string_view name, const char *value) { add(name, std::string_view(value)); }
  void add(std::string_view name, double value); // null if not finite
  void add(std::string_view name, int64_t value);
  void add(std::string_view name, std::span<const int32_t> values);
  void add(std::string_view name, const JsonObject &value);
  std::string text() const { return "{" + members + "}"; }

private:
  void addRaw(std::string_view name, std::string_view json);
  std::string members;
};

// A bar on standard error, drawn at most ten times a second, where that is a terminal.
class ProgressBar {
public:
  explicit ProgressBar(std::string_view what) : what(what) {}
  ~ProgressBar() { clear(); }
  ProgressBar(const ProgressBar &) = delete;
  void show(uint64_t done, uint64_t total); // bytes
  void clear();

private:
  std::string what;
  bool terminal = isatty(2), drawn = false;
  std::chrono::steady_clock::time_point last;
};

std::string jsonString(std::string_view text); // with its quotes

} // namespace moe

#endif
