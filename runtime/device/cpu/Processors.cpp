#include "runtime/device/cpu/Processors.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sched.h>
#include <set>
#include <sstream>

namespace moe::cpu {
namespace {

std::optional<std::string> firstLine(const std::string &path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line))
    return {};
  return line;
}

// "150000 100000", or "max 100000" and -1 without a limit.
std::optional<double> quotient(const std::string &text) {
  std::istringstream fields(text);
  double quota = 0, period = 0;
  if (!(fields >> quota >> period) || quota <= 0 || period <= 0)
    return {};
  return quota / period;
}

std::optional<double> less(std::optional<double> a, std::optional<double> b) {
  return a && b ? std::min(*a, *b) : a ? a : b;
}

// Of a group and those above it, up to the hierarchy's root at `mount`.
std::optional<double> quotaOfGroup(const std::string &mount, std::string group) {
  std::optional<double> least;
  for (;;) {
    const std::string folder = mount + group;
    if (auto both = firstLine(folder + "/cpu.max"))
      least = less(least, quotient(*both));
    auto quota = firstLine(folder + "/cpu.cfs_quota_us");
    auto period = firstLine(folder + "/cpu.cfs_period_us");
    if (quota && period)
      least = less(least, quotient(*quota + " " + *period));
    if (group.empty())
      return least;
    group.resize(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
  }
}

} // namespace

std::vector<int> allowedProcessors() {
  std::vector<int> processors;
  // The mask of a large machine does not fit in cpu_set_t: grow until the kernel accepts the size.
  for (int bits = 1024; bits <= 1 << 18; bits *= 2) {
    cpu_set_t *mask = CPU_ALLOC(bits);
    if (!mask)
      break;
    size_t bytes = CPU_ALLOC_SIZE(bits);
    bool known = sched_getaffinity(0, bytes, mask) == 0;
    for (int cpu = 0; known && cpu < bits; ++cpu)
      if (CPU_ISSET_S(cpu, bytes, mask))
        processors.push_back(cpu);
    CPU_FREE(mask);
    if (known)
      break;
  }
  if (processors.empty())
    processors.push_back(0);
  return processors;
}

int coresOf(std::span<const int> processors, const std::string &root) {
  std::set<std::string> cores;
  for (int processor : processors) {
    const std::string name = std::to_string(processor);
    // "0,32" or "0-1" for both of two that share a core.
    auto siblings =
        firstLine(root + "/sys/devices/system/cpu/cpu" + name + "/topology/thread_siblings_list");
    cores.insert(siblings && !siblings->empty() ? *siblings : name);
  }
  return int(cores.size());
}

std::optional<double> processorQuota(const std::string &root) {
  // "0::/group" of version 2, "4:cpu,cpuacct:/group" of version 1. In a container the group is
  // often not below its own mount: then the mount's root is the container's group.
  std::optional<double> least;
  for (const char *mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/cpu"})
    least = less(least, quotaOfGroup(root + mount, ""));
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos)
      continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    std::string group = line.substr(second + 1);
    if (group == "/")
      group.clear();
    if (controllers == ",,")
      least = less(least, quotaOfGroup(root + "/sys/fs/cgroup", group));
    else if (controllers.find(",cpu,") != std::string::npos)
      least = less(least, quotaOfGroup(root + "/sys/fs/cgroup/cpu", group));
  }
  return least;
}

int defaultThreads(const std::string &root) {
  const int cores = coresOf(allowedProcessors(), root);
  const std::optional<double> quota = processorQuota(root);
  return quota ? int(std::clamp(std::ceil(*quota), 1.0, double(cores))) : cores;
}

} // namespace moe::cpu
