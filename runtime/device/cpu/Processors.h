// Which processors this process may use, and for how much of the time.
#ifndef MOE_RUNTIME_DEVICE_CPU_PROCESSORS_H
#define MOE_RUNTIME_DEVICE_CPU_PROCESSORS_H

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace moe::cpu {

// Those of the affinity mask, from the lowest; never none: processor 0 where the system does not
// say.
std::vector<int> allowedProcessors();

// How many cores these processors are on: two that share one (SMT) count once, and those of which
// the system says nothing once each. `root`: the folder in which /sys lies, another in tests.
int coresOf(std::span<const int> processors, const std::string &root = "");

// Processor time by time, the least that a control group of this process has, of version 1 or 2, or
// one above it; none if there is no limit. `root`: as above, for /proc and /sys.
std::optional<double> processorQuota(const std::string &root = "");

// How many workers fit: one for each core allowed, or the quota rounded up where that is less; at
// least 1. A second thread of a core adds nothing to kernels that keep its vector units or the
// memory busy. `root`: as above.
int defaultThreads(const std::string &root = "");

} // namespace moe::cpu

#endif
