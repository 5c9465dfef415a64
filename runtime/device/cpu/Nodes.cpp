// The kernel's own interface, /sys and mbind, so that nothing needs libnuma.
#include "runtime/device/cpu/Nodes.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace moe::cpu {
namespace {

// More than any kernel is built for: processors, and nodes.
constexpr int kMostNumbers = 1 << 18, kMostNodes = 1024;

constexpr std::pair<std::string_view, Numa> kNames[] = {{"auto", Numa::Auto},
                                                        {"off", Numa::Off},
                                                        {"interleave", Numa::Interleave},
                                                        {"replicate", Numa::Replicate}};

std::string firstLine(const std::string &path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "Mems_allowed_list:	0-1" of /proc/self/status; nothing where the system does not say.
std::optional<std::vector<int>> allowedNodes(const std::string &root) {
  constexpr std::string_view key = "Mems_allowed_list:";
  std::ifstream file(root + "/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key)) {
      const size_t begin = std::min(line.find_first_not_of(" \t", key.size()), line.size());
      return numbersOf(std::string_view(line).substr(begin));
    }
  return {};
}

// "Node 0 MemFree:  6215352 kB", and so on; 0 for what is missing.
uint64_t availableOn(int node, const std::string &folder) {
  const std::string prefix = "Node " + std::to_string(node) + " ";
  std::ifstream file(folder + "/meminfo");
  uint64_t sum = 0;
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(prefix))
      continue;
    for (std::string_view key : {"MemFree:", "Active(file):", "Inactive(file):"}) {
      std::string_view rest = std::string_view(line).substr(prefix.size());
      if (!rest.starts_with(key))
        continue;
      rest.remove_prefix(std::min(rest.find_first_not_of(' ', key.size()), rest.size()));
      uint64_t kib = 0;
      std::from_chars(rest.data(), rest.data() + rest.size(), kib);
      sum += std::min(kib, uint64_t(1) << 50) << 10;
    }
  }
  return sum;
}

Status setPolicy(std::span<std::byte> memory, int mode, std::span<const Node> nodes) {
  if (memory.empty())
    return ok();
  constexpr int bits = 8 * sizeof(unsigned long);
  std::array<unsigned long, kMostNodes / bits> mask{};
  for (const Node &node : nodes)
    mask[node.number / bits] |= 1ul << node.number % bits;
  // The kernel takes one bit less than it is told.
  if (syscall(SYS_mbind, memory.data(), memory.size(), mode, mask.data(), kMostNodes + 1, 0u) == 0)
    return ok();
  return Error{Code::Unavailable, std::string("the system refuses mbind: ") + std::strerror(errno)};
}

} // namespace

std::optional<Numa> numaNamed(std::string_view name) {
  for (const auto &[known, numa] : kNames)
    if (name == known)
      return numa;
  return {};
}

std::optional<std::vector<int>> numbersOf(std::string_view list) {
  std::vector<int> numbers;
  const char *at = list.data(), *end = at + list.size();
  const auto number = [&](int &value) {
    const auto [next, error] = std::from_chars(at, end, value);
    at = next;
    return error == std::errc() && value >= 0 && value < kMostNumbers;
  };
  while (at != end) {
    int first = 0, last = 0;
    if (!number(first))
      return {};
    last = first;
    if (at != end && *at == '-' && (++at, !number(last) || last < first))
      return {};
    if (!numbers.empty() && first <= numbers.back())
      return {};
    for (int i = first; i <= last; ++i)
      numbers.push_back(i);
    if (at != end && (*at++ != ',' || at == end))
      return {};
  }
  return numbers;
}

std::vector<Node> memoryNodes(std::span<const int> processors, const std::string &root) {
  const std::string folder = root + "/sys/devices/system/node";
  const auto withMemory = numbersOf(firstLine(folder + "/has_memory"));
  const auto allowed = allowedNodes(root);
  std::vector<Node> nodes;
  std::vector<int> others(processors.begin(), processors.end());
  for (int number : withMemory.value_or(std::vector<int>())) {
    if (number >= kMostNodes ||
        (allowed && !std::binary_search(allowed->begin(), allowed->end(), number)))
      continue;
    const std::string own = folder + "/node" + std::to_string(number);
    Node node{number, {}, availableOn(number, own)};
    for (int processor : numbersOf(firstLine(own + "/cpulist")).value_or(std::vector<int>()))
      if (std::erase(others, processor))
        node.processors.push_back(processor);
    if (!node.processors.empty())
      nodes.push_back(std::move(node));
  }
  if (!nodes.empty()) {
    std::vector<int> &first = nodes.front().processors;
    first.insert(first.end(), others.begin(), others.end());
    std::sort(first.begin(), first.end());
  }
  return nodes;
}

Status interleave(std::span<std::byte> memory, std::span<const Node> nodes) {
  return setPolicy(memory, MPOL_INTERLEAVE, nodes);
}

Status prefer(std::span<std::byte> memory, const Node &node) {
  return setPolicy(memory, MPOL_PREFERRED, {&node, 1});
}

bool runOn(const Node &node) {
  const int bits = node.processors.back() + 1;
  cpu_set_t *mask = CPU_ALLOC(bits);
  if (!mask)
    return false;
  const size_t bytes = CPU_ALLOC_SIZE(bits);
  CPU_ZERO_S(bytes, mask);
  for (int processor : node.processors)
    CPU_SET_S(processor, bytes, mask);
  const bool done = sched_setaffinity(0, bytes, mask) == 0;
  CPU_FREE(mask);
  return done;
}

} // namespace moe::cpu
