// Sums and prints counters.
#include "runtime/device/ptxsim/Stats.h"

#include <algorithm>
#include <cstdio>
#include <vector>

namespace moe::ptxsim {

void KernelStats::add(const Stats &one, double took) {
  ++launches;
  seconds += took;
  sum.instructions += one.instructions;
  sum.globalLoads += one.globalLoads;
  sum.globalStores += one.globalStores;
  sum.globalSectors += one.globalSectors;
  sum.globalBytes += one.globalBytes;
  sum.sharedAccesses += one.sharedAccesses;
  sum.sharedConflicts += one.sharedConflicts;
}

std::string statsTable(const std::map<std::string, KernelStats> &kernels) {
  std::vector<const std::pair<const std::string, KernelStats> *> rows;
  size_t width = 6;
  for (const auto &row : kernels) {
    rows.push_back(&row);
    width = std::max(width, row.first.size());
  }
  std::sort(rows.begin(), rows.end(),
            [](auto *a, auto *b) { return a->second.seconds > b->second.seconds; });
  std::string text;
  char line[160];
  text += std::string("kernel").append(width - 6, ' ');
  std::snprintf(line, sizeof line, " %8s %9s %12s %10s %10s %10s %10s\n", "launches", "host ms",
                "instructions", "sectors", "efficiency", "shared", "conflicts");
  text += line;
  for (const auto *row : rows) {
    const KernelStats &k = row->second;
    double moved = 32.0 * double(k.sum.globalSectors);
    std::snprintf(line, sizeof line, " %8llu %9.1f %12llu %10llu %9.0f%% %10llu %10llu\n",
                  static_cast<unsigned long long>(k.launches), k.seconds * 1e3,
                  static_cast<unsigned long long>(k.sum.instructions),
                  static_cast<unsigned long long>(k.sum.globalSectors),
                  moved > 0 ? 100.0 * double(k.sum.globalBytes) / moved : 100.0,
                  static_cast<unsigned long long>(k.sum.sharedAccesses),
                  static_cast<unsigned long long>(k.sum.sharedConflicts));
    text += row->first + std::string(width - row->first.size(), ' ') + line;
  }
  return text;
}

} // namespace moe::ptxsim
