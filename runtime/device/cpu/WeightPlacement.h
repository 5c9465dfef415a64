// Where a plan's weights are read from, on machines with several memory nodes: the plan's file, as
// it is mapped, or copies that are placed among the nodes.
#ifndef MOE_RUNTIME_DEVICE_CPU_WEIGHTPLACEMENT_H
#define MOE_RUNTIME_DEVICE_CPU_WEIGHTPLACEMENT_H

#include "runtime/device/Programs.h"
#include "runtime/device/cpu/Memory.h"
#include "runtime/device/cpu/Nodes.h"
#include "runtime/device/cpu/ThreadPool.h"

#include <functional>

namespace moe::cpu {

// What is done, and why where that is not what was asked for.
struct Placement {
  Numa kind = Numa::Off; // never Auto
  std::string reason;    // of Off; empty: nothing else was to be expected
};

// weightBytes: of one copy. otherBytes: what the session may take besides. available: of the whole
// system, as availableMemory has it. Auto takes up to half of what is available, since others want
// some too. Error: ResourceExhausted where what is asked for does not fit.
Result<Placement> choosePlacement(Numa asked, uint64_t weightBytes, uint64_t otherBytes,
                                  std::span<const Node> nodes, uint64_t available);

class PlacedWeights {
public:
  // Told how many bytes are copied, by the calling thread.
  using Progress = std::function<void(uint64_t done, uint64_t total)>;

  // Copies, where the placement says so, the sections of which the plan's programs read. Where they
  // are replicated, the threads beside the calling one then run on a node each, in proportion to
  // its cores. Where the system forbids to place memory nothing is copied, and description() says
  // so. `nodes` are none for Off alone. Error: ResourceExhausted.
  static Result<PlacedWeights> create(const DevicePlan &plan, Placement placement,
                                      std::span<const Node> nodes, ThreadPool &threads,
                                      const Progress &progress);

  size_t copies() const { return sets.size(); }
  // Per section of the plan, its bytes in a copy; null where no program reads it.
  const std::vector<std::byte *> &sections(size_t copy) const { return sets[copy]; }

  // The copy that is nearest to where the calling thread, which is `worker`, runs at this moment.
  size_t nearest(int worker) const;

  // For people, "weights interleaved over 2 nodes"; empty where there is nothing to say.
  const std::string &description() const { return text; }

private:
  void assign(std::span<const Node> nodes, ThreadPool &threads);

  std::vector<Memory> memory;
  std::vector<std::vector<std::byte *>> sets;
  std::vector<int> homes;  // per worker: its copy, if there are several
  std::vector<int> beside; // per processor: the same, or -1
  std::string text;
};

// The bytes of the sections of which the plan's programs read.
uint64_t weightBytes(const DevicePlan &plan);

} // namespace moe::cpu

#endif
