// What the tools print for people who watch: sizes, and a bar.
#ifndef MOE_TOOLS_TERMINAL_H
#define MOE_TOOLS_TERMINAL_H

#include <chrono>
#include <cstdint>
#include <string>

namespace moe {

std::string bytesText(double bytes); // "1.23 GB", in powers of 1000

// A bar on standard error, drawn at most ten times a second, where that is a terminal.
class ProgressBar {
public:
  ProgressBar();
  ~ProgressBar() { clear(); }
  ProgressBar(const ProgressBar &) = delete;
  void show(uint64_t done, uint64_t total, const std::string &text);
  void clear();

private:
  bool terminal, drawn = false;
  std::chrono::steady_clock::time_point last;
};

} // namespace moe

#endif
