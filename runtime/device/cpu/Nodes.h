// The machine's memory nodes (NUMA): what each has, and which of them memory comes from.
#ifndef MOE_RUNTIME_DEVICE_CPU_NODES_H
#define MOE_RUNTIME_DEVICE_CPU_NODES_H

#include "runtime/Status.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moe::cpu {

// Where weights lie on a machine with several nodes.
enum class Numa : uint8_t {
  Auto,       // Off with one node; with several Replicate, Interleave or Off, by what fits
  Off,        // the plan's own memory, which is on the nodes of those who read it first
  Interleave, // one copy, whose pages come from all nodes in turn
  Replicate,  // a copy on each node, for the threads there
};

// "auto", "off", "interleave", "replicate"; nothing for another name.
std::optional<Numa> numaNamed(std::string_view name);

// A piece of the machine's memory and the processors beside it.
struct Node {
  int number = 0;              // the system's
  std::vector<int> processors; // at least one, ascending
  uint64_t available = 0;      // bytes that are free, or only hold what files have too
};

// The nodes whose memory this process may use and that have some of `processors`, by number. Those
// beside none of them are counted with the first; memory far from every processor (expanders) is
// left out. Empty where the system tells of none. `root`: the folder in which /proc and /sys lie,
// another in tests.
std::vector<Node> memoryNodes(std::span<const int> processors, const std::string &root = "");

// The numbers of a list as the system writes it, "0-3,8", ascending and each once; nothing if it is
// damaged, or has a number that no machine has.
std::optional<std::vector<int>> numbersOf(std::string_view list);

// Pages of `memory`, which begins with a page and was not touched yet, come from the nodes in turn.
// Where one has none left another one gives. Error: Unavailable with the system's reason, as in
// sandboxes that forbid it.
Status interleave(std::span<std::byte> memory, std::span<const Node> nodes);

// The same with all pages from one node, if it has them.
Status prefer(std::span<std::byte> memory, const Node &node);

// The calling thread runs on the node's processors alone, on whichever of them. False if the system
// refuses: it then runs where it did.
bool runOn(const Node &node);

} // namespace moe::cpu

#endif
