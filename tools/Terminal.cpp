// Nothing is drawn where nobody watches, so that logs hold lines alone.
#include "tools/Terminal.h"

#include <cstdio>
#include <unistd.h>

namespace moe {

std::string bytesText(double bytes) {
  const char *units[] = {"B", "KB", "MB", "GB", "TB"};
  int unit = 0;
  while (bytes >= 1000 && unit < 4) {
    bytes /= 1000;
    ++unit;
  }
  char text[40];
  std::snprintf(text, sizeof text, unit ? "%.2f %s" : "%.0f %s", bytes, units[unit]);
  return text;
}

ProgressBar::ProgressBar() : terminal(isatty(2)) {}

void ProgressBar::show(uint64_t done, uint64_t total, const std::string &text) {
  auto now = std::chrono::steady_clock::now();
  if (!terminal || (drawn && done < total && now - last < std::chrono::milliseconds(100)))
    return;
  last = now;
  drawn = true;
  constexpr int width = 40;
  int filled = total ? int(double(done) / double(total) * width) : width;
  std::fprintf(stderr, "\r\x1b[K[%s%s] %s", std::string(filled, '=').c_str(),
               std::string(width - filled, ' ').c_str(), text.c_str());
}

void ProgressBar::clear() {
  if (drawn)
    std::fputs("\r\x1b[K", stderr);
  drawn = false;
}

} // namespace moe
