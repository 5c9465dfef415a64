// Counts what accesses cost, and sums and prints the counters.
#include "runtime/device/ptxsim/Stats.h"

#include "runtime/device/ptxsim/Access.h"

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

// Whether any bank of shared memory has two of the words.
static bool twoInABank(const std::array<uint64_t, 256> &words, unsigned count) {
  std::array<uint64_t, 32> inBank;
  uint32_t taken = 0;
  for (unsigned n = 0; n < count; ++n) {
    unsigned bank = words[n] % 32;
    if (taken >> bank & 1 && inBank[bank] != words[n])
      return true;
    inBank[bank] = words[n];
    taken |= 1u << bank;
  }
  return false;
}

void countAccess(Warp &warp, Space space, const uint64_t *addresses, uint32_t lanes, unsigned bytes,
                 bool writes) {
  Stats &stats = warp.block->grid->stats;
  if (!warp.block->grid->options.counters || (space != Space::Global && space != Space::Shared))
    return;
  // In the common case that lanes follow each other, in whole or in groups, no sorting is needed.
  bool rising = true;
  uint64_t last = 0;
  unsigned count = 0;
  if (space == Space::Global) {
    std::array<uint64_t, kLanes> sectors;
    for (unsigned lane = 0; lane < kLanes; ++lane)
      if (uint64_t sector = addresses[lane] / 32; lanes >> lane & 1 && (!count || sector != last)) {
        rising &= !count || sector > last;
        sectors[count++] = last = sector;
      }
    if (!rising) {
      std::sort(sectors.begin(), sectors.begin() + count);
      count = unsigned(std::unique(sectors.begin(), sectors.begin() + count) - sectors.begin());
    }
    ++(writes ? stats.globalStores : stats.globalLoads);
    stats.globalSectors += count;
    stats.globalBytes += uint64_t(bytes) * unsigned(__builtin_popcount(lanes));
    return;
  }
  ++stats.sharedAccesses;
  // 32 banks of 4 bytes: wide accesses take a pass per half or quarter of the warp.
  unsigned group = bytes <= 4 ? 32 : bytes <= 8 ? 16 : 8, width = std::max(1u, bytes / 4);
  for (unsigned first = 0; first < kLanes; first += group) {
    std::array<uint64_t, 256> words;
    count = 0;
    rising = true;
    for (unsigned lane = first; lane < first + group; ++lane)
      for (unsigned n = 0; lanes >> lane & 1 && n < width; ++n)
        if (uint64_t word = addresses[lane] / 4 + n; !count || word != last) {
          rising &= !count || word > last;
          words[count++] = last = word;
        }
    if (count == 0 || (rising && words[count - 1] - words[0] < 32) || !twoInABank(words, count))
      continue;
    if (!rising) {
      std::sort(words.begin(), words.begin() + count);
      count = unsigned(std::unique(words.begin(), words.begin() + count) - words.begin());
    }
    std::array<uint8_t, 32> banks{};
    uint8_t passes = 0;
    for (unsigned n = 0; n < count; ++n)
      passes = std::max(passes, ++banks[words[n] % 32]);
    stats.sharedConflicts += passes > 1 ? passes - 1u : 0;
  }
}

} // namespace moe::ptxsim
