// Copies are made by all workers in pieces, in the order of the file, so that a disk reads on.
#include "runtime/device/cpu/WeightPlacement.h"

#include "runtime/device/SystemMemory.h"
#include "runtime/device/cpu/Processors.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <sched.h>
#include <sys/mman.h>

namespace moe::cpu {
namespace {

constexpr size_t kPiece = size_t(2) << 20;

std::string nodesText(size_t count) {
  return std::to_string(count) + (count == 1 ? " node" : " nodes");
}

// Per section of the plan: whether a program reads it.
std::vector<bool> sectionsRead(const DevicePlan &plan) {
  std::vector<bool> read(plan.sections.size());
  for (const Program &program : plan.programs)
    for (const Call &call : program.calls)
      for (const Operand &operand : call.operands)
        if (operand.kind == OperandKind::Weight && operand.index < read.size())
          read[operand.index] = true;
  return read;
}

// Some bytes of a section, and where they go in each copy.
struct Piece {
  std::span<const std::byte> from;
  size_t section, offset;
};

struct Copying {
  std::vector<Piece> pieces;
  const std::vector<std::vector<std::byte *>> *sets;
  const PlacedWeights::Progress *progress;
  uint64_t total;
  std::atomic<size_t> next{0};
  std::atomic<uint64_t> done{0};

  static void work(void *self, int worker) {
    auto &copying = *static_cast<Copying *>(self);
    for (size_t i; (i = copying.next.fetch_add(1)) < copying.pieces.size();) {
      const Piece &piece = copying.pieces[i];
      readAhead(piece.from);
      for (const std::vector<std::byte *> &set : *copying.sets)
        std::memcpy(set[piece.section] + piece.offset, piece.from.data(), piece.from.size());
      const uint64_t done = copying.done.fetch_add(piece.from.size()) + piece.from.size();
      if (worker == 0 && *copying.progress)
        (*copying.progress)(done, copying.total);
    }
  }

  // Asks for all of a piece at once, where page after page would be waited for.
  static void readAhead(std::span<const std::byte> bytes) {
    const auto begin = reinterpret_cast<uintptr_t>(bytes.data()) & ~uintptr_t(4095);
    const auto end = reinterpret_cast<uintptr_t>(bytes.data()) + bytes.size();
    (void)madvise(reinterpret_cast<void *>(begin), end - begin, MADV_WILLNEED);
  }
};

} // namespace

uint64_t weightBytes(const DevicePlan &plan) {
  const std::vector<bool> read = sectionsRead(plan);
  uint64_t sum = 0;
  for (size_t i = 0; i < read.size(); ++i)
    sum += read[i] ? plan.sections[i].size() : 0;
  return sum;
}

Result<Placement> choosePlacement(Numa asked, uint64_t weightBytes, uint64_t otherBytes,
                                  std::span<const Node> nodes, uint64_t available) {
  if (asked == Numa::Off || (asked == Numa::Auto && nodes.size() < 2) || weightBytes == 0)
    return Placement{};
  if (nodes.empty())
    return Placement{Numa::Off, "the system tells of no memory nodes"};
  const uint64_t replicated = weightBytes * nodes.size();
  const Node &least =
      *std::min_element(nodes.begin(), nodes.end(),
                        [](const Node &a, const Node &b) { return a.available < b.available; });
  const auto fits = [&](uint64_t copies, uint64_t most) {
    return otherBytes <= most && copies <= most - otherBytes;
  };
  if (asked == Numa::Auto) {
    if (weightBytes <= least.available / 2 && fits(replicated, available / 2))
      return Placement{Numa::Replicate, {}};
    if (fits(weightBytes, available / 2))
      return Placement{Numa::Interleave, {}};
    return Placement{Numa::Off, "a copy of " + mebibytes(weightBytes) +
                                    " is more than half of the " + mebibytes(available) +
                                    " available"};
  }
  const std::string beside =
      otherBytes ? " beside " + mebibytes(otherBytes) + " of keys, values and activations" : "";
  if (asked == Numa::Interleave) {
    if (!fits(weightBytes, available))
      return Error{Code::ResourceExhausted, "--numa interleave copies " + mebibytes(weightBytes) +
                                                " of weights" + beside + ", and " +
                                                mebibytes(available) +
                                                " are available; --numa off reads the plan's own"};
    return Placement{Numa::Interleave, {}};
  }
  const std::string wanted = "--numa replicate copies " + mebibytes(weightBytes) +
                             " of weights to each of " + nodesText(nodes.size());
  const std::string instead = "; --numa interleave takes one copy, --numa off none";
  if (weightBytes > least.available)
    return Error{Code::ResourceExhausted, wanted + ", and node " + std::to_string(least.number) +
                                              " has " + mebibytes(least.available) + " available" +
                                              instead};
  if (!fits(replicated, available))
    return Error{Code::ResourceExhausted,
                 wanted + beside + ", and " + mebibytes(available) + " are available" + instead};
  return Placement{Numa::Replicate, {}};
}

Result<PlacedWeights> PlacedWeights::create(const DevicePlan &plan, Placement placement,
                                            std::span<const Node> nodes, ThreadPool &threads,
                                            const Progress &progress) {
  const std::vector<bool> read = sectionsRead(plan);
  PlacedWeights weights;
  const bool replicate = placement.kind == Numa::Replicate;
  const size_t copies = placement.kind == Numa::Off ? 0 : replicate ? nodes.size() : 1;
  Copying copying;
  for (size_t copy = 0; copy < copies && placement.reason.empty(); ++copy) {
    std::vector<std::byte *> &set = weights.sets.emplace_back(read.size());
    for (size_t i = 0; i < read.size(); ++i) {
      if (!read[i])
        continue;
      MOE_ASSIGN(memory, Memory::zeroed(plan.sections[i].size(), "a copy of the weights"));
      const Status placed =
          replicate ? prefer(memory.bytes(), nodes[copy]) : interleave(memory.bytes(), nodes);
      if (!placed)
        placement.reason = placed.error().message;
      set[i] = memory.data();
      weights.memory.push_back(std::move(memory));
    }
  }
  if (copies == 0 || !placement.reason.empty()) {
    // Kernels take one type of pointer; they do not write to weights, whose pages would refuse.
    weights.memory.clear();
    weights.sets.assign(1, std::vector<std::byte *>(read.size()));
    for (size_t i = 0; i < read.size(); ++i)
      weights.sets[0][i] = const_cast<std::byte *>(plan.sections[i].data());
    if (!placement.reason.empty())
      weights.text = "weights where they were read (" + placement.reason + ")";
    return weights;
  }
  for (size_t i = 0; i < read.size(); ++i)
    for (size_t at = 0; read[i] && at < plan.sections[i].size(); at += kPiece)
      copying.pieces.push_back(
          {plan.sections[i].subspan(at, std::min(kPiece, plan.sections[i].size() - at)), i, at});
  copying.sets = &weights.sets;
  copying.progress = &progress;
  copying.total = weightBytes(plan);
  threads.run(Copying::work, &copying);
  if (progress)
    progress(copying.total, copying.total);
  for (Memory &memory : weights.memory)
    memory.protect();
  weights.text = (replicate ? "weights replicated on " : "weights interleaved over ") +
                 nodesText(nodes.size());
  if (replicate)
    weights.assign(nodes, threads);
  return weights;
}

void PlacedWeights::assign(std::span<const Node> nodes, ThreadPool &threads) {
  // Each next worker goes where a core has the fewest, so that any number of the first ones is
  // spread over all nodes.
  std::vector<int> cores, count(nodes.size());
  for (const Node &node : nodes) {
    cores.push_back(coresOf(node.processors));
    const auto index = int(&node - nodes.data());
    for (int processor : node.processors) {
      beside.resize(std::max(beside.size(), size_t(processor) + 1), -1);
      beside[processor] = index;
    }
  }
  for (int worker = 0; worker < threads.workers(); ++worker) {
    int home = 0;
    for (int i = 1; i < int(nodes.size()); ++i)
      if ((count[i] + 1) * cores[home] < (count[home] + 1) * cores[i])
        home = i;
    ++count[home];
    homes.push_back(home);
  }
  struct Binding {
    std::span<const Node> nodes;
    const std::vector<int> &homes;
  } binding{nodes, homes};
  // Worker 0 is the caller's thread, whose processors are not ours to choose: it goes where the
  // others leave room, and reads the copy that is there.
  threads.run(
      [](void *context, int worker) {
        const auto &binding = *static_cast<Binding *>(context);
        if (worker > 0)
          runOn(binding.nodes[binding.homes[worker]]);
      },
      &binding);
}

size_t PlacedWeights::nearest(int worker) const {
  if (sets.size() == 1)
    return 0;
  const int processor = sched_getcpu();
  const int copy = processor >= 0 && size_t(processor) < beside.size() ? beside[processor] : -1;
  return size_t(copy >= 0 ? copy : homes[worker]);
}

} // namespace moe::cpu
