// Post-dominators by the iteration of Cooper, Harvey and Kennedy over basic blocks.
#include "runtime/device/ptxsim/Flow.h"

#include <algorithm>

namespace moe::ptxsim {

namespace {

bool isExit(const Instruction &i) { return i.opcode.op == Op::Exit || i.opcode.op == Op::Ret; }

struct Graph {
  static constexpr uint32_t none = ~0u;
  std::vector<uint32_t> begins; // first instruction of each block
  std::vector<std::vector<uint32_t>> successors, predecessors;
  uint32_t exit = 0;

  explicit Graph(const Entry &entry);
  std::vector<uint32_t> postDominators() const;
};

Graph::Graph(const Entry &entry) {
  size_t size = entry.code.size();
  std::vector<bool> leads(size + 1, false);
  leads[0] = true;
  for (size_t i = 0; i < size; ++i) {
    const Instruction &instruction = entry.code[i];
    if (instruction.opcode.op == Op::Bra)
      leads[size_t(entry.operands[instruction.first].value)] = true;
    if (instruction.opcode.op == Op::Bra || isExit(instruction))
      leads[i + 1] = true;
  }
  std::vector<uint32_t> blockAt(size);
  for (uint32_t i = 0; i < size; ++i) {
    if (leads[i])
      begins.push_back(i);
    blockAt[i] = uint32_t(begins.size() - 1);
  }
  exit = uint32_t(begins.size());
  successors.resize(exit + 1);
  predecessors.resize(exit + 1);
  for (uint32_t block = 0; block < exit; ++block) {
    size_t end = block + 1 < exit ? begins[block + 1] : size;
    const Instruction &last = entry.code[end - 1];
    bool guarded = last.guard != Instruction::always;
    auto &next = successors[block];
    if (last.opcode.op == Op::Bra)
      next.push_back(blockAt[size_t(entry.operands[last.first].value)]);
    if (isExit(last))
      next.push_back(exit);
    if (guarded || (last.opcode.op != Op::Bra && !isExit(last)))
      next.push_back(end < size ? block + 1 : exit);
    for (uint32_t successor : next)
      predecessors[successor].push_back(block);
  }
}

std::vector<uint32_t> Graph::postDominators() const {
  // Post-order of the reversed graph, from the exit, without recursion.
  std::vector<uint32_t> order, rank(exit + 1, none), parent(exit + 1, none);
  std::vector<std::pair<uint32_t, size_t>> stack{{exit, 0}};
  std::vector<bool> seen(exit + 1, false);
  seen[exit] = true;
  while (!stack.empty()) {
    auto &[block, next] = stack.back();
    if (next < predecessors[block].size()) {
      uint32_t before = predecessors[block][next++];
      if (!seen[before]) {
        seen[before] = true;
        stack.push_back({before, 0});
      }
    } else {
      rank[block] = uint32_t(order.size());
      order.push_back(block);
      stack.pop_back();
    }
  }
  parent[exit] = exit;
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = order.size() - 1; i-- > 0;) {
      uint32_t block = order[i], common = none;
      for (uint32_t next : successors[block]) {
        if (rank[next] == none || parent[next] == none)
          continue;
        if (common == none) {
          common = next;
          continue;
        }
        uint32_t other = next;
        while (common != other) {
          while (rank[common] < rank[other])
            common = parent[common];
          while (rank[other] < rank[common])
            other = parent[other];
        }
      }
      changed |= parent[block] != common;
      parent[block] = common;
    }
  }
  return parent;
}

} // namespace

void findReconvergence(Entry &entry) {
  Graph graph(entry);
  std::vector<uint32_t> parent = graph.postDominators();
  for (uint32_t block = 0; block < graph.exit; ++block) {
    size_t end = block + 1 < graph.exit ? graph.begins[block + 1] : entry.code.size();
    // Blocks that never reach the exit, endless loops, have no post-dominator.
    uint32_t join = parent[block];
    entry.code[end - 1].reconverge = join == Graph::none || join == graph.exit
                                         ? uint32_t(entry.code.size())
                                         : graph.begins[join];
  }
}

} // namespace moe::ptxsim
