// Counters of kernels, summed over their launches, and how to print them.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_STATS_H
#define MOE_RUNTIME_DEVICE_PTXSIM_STATS_H

#include <cstdint>
#include <map>
#include <string>

namespace moe::ptxsim {

// Counted per warp instruction.
struct Stats {
  uint64_t instructions = 0;
  uint64_t globalLoads = 0, globalStores = 0; // warp instructions
  uint64_t globalSectors = 0;                 // of 32 bytes, loads and stores
  uint64_t globalBytes = 0;                   // asked for by lanes
  uint64_t sharedAccesses = 0;                // warp instructions
  uint64_t sharedConflicts = 0;               // passes beyond those that the bytes need
};

struct KernelStats {
  uint64_t launches = 0;
  double seconds = 0; // of the host
  Stats sum;

  void add(const Stats &, double seconds);
};

// A line per kernel, the slowest first. Efficiency is bytes asked for over bytes of sectors moved.
std::string statsTable(const std::map<std::string, KernelStats> &);

} // namespace moe::ptxsim

#endif
