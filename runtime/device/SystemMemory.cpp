// /proc/meminfo and the memory controller's files.
#include "runtime/device/SystemMemory.h"

#include <algorithm>
#include <cstdio>

namespace moe {
namespace {

// The number in a file of a single one; UINT64_MAX if there is none ("max").
uint64_t numberIn(const std::string &path) {
  std::FILE *file = std::fopen(path.c_str(), "re");
  if (!file)
    return UINT64_MAX;
  unsigned long long value = UINT64_MAX;
  if (std::fscanf(file, "%llu", &value) != 1)
    value = UINT64_MAX;
  std::fclose(file);
  return value;
}

} // namespace

uint64_t availableMemory(const std::string &root) {
  uint64_t available = UINT64_MAX;
  if (std::FILE *file = std::fopen((root + "/proc/meminfo").c_str(), "re")) {
    char line[256];
    unsigned long long kib;
    while (std::fgets(line, sizeof line, file))
      if (std::sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
        available = std::min<unsigned long long>(kib, UINT64_MAX >> 10) << 10;
    std::fclose(file);
  }
  uint64_t limit = numberIn(root + "/sys/fs/cgroup/memory.max");
  uint64_t used = numberIn(root + "/sys/fs/cgroup/memory.current");
  if (limit != UINT64_MAX && used != UINT64_MAX)
    available = std::min(available, limit - std::min(limit, used));
  return available;
}

std::string mebibytes(uint64_t bytes) {
  char text[40];
  std::snprintf(text, sizeof text, bytes >> 30 ? "%.1f GiB" : "%.1f MiB",
                double(bytes) / (bytes >> 30 ? 1 << 30 : 1 << 20));
  return text;
}

} // namespace moe
