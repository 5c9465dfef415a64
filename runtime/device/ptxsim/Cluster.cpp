// Clusters: blocks that run together and reach each other's shared memory.
#include "runtime/device/ptxsim/Access.h"

#include <algorithm>

namespace moe::ptxsim {

unsigned Cluster::aliveThreads() const {
  unsigned count = 0;
  for (const Block *block : blocks)
    count += block->aliveThreads();
  return count;
}

bool Cluster::done() const {
  return std::all_of(blocks.begin(), blocks.end(),
                     [](const Block *block) { return block->done(); });
}

Block *Cluster::find(uint32_t index) const {
  for (Block *block : blocks)
    if (block->index == index)
      return block;
  return nullptr;
}

void completeClusterBarrier(Cluster &cluster) {
  if (!cluster.arrived || cluster.arrived < cluster.aliveThreads())
    return;
  cluster.arrived = 0;
  ++cluster.phase;
  cluster.known = std::move(cluster.gathered);
  cluster.gathered.reset();
  for (Block *block : cluster.blocks)
    for (const auto &warp : block->warps)
      if (warp->state == Warp::AtCluster)
        warp->state = Warp::Ready;
  cluster.blocks[0]->grid->progress();
}

void requireMemoryQuiet(Warp &warp, const Instruction &i) {
  Block &block = *warp.block;
  unsigned lane = firstLane(warp.active);
  if (!block.loads.empty())
    return block.grid->report(warp, i, lane,
                              "the block ends while the bulk copy of line " +
                                  std::to_string(block.loads[0].instruction->line) +
                                  " may still write its shared memory: a wait is missing");
  for (const auto &[visitor, visit] : block.visits) {
    auto knows = [&, of = visitor, clock = visit.clock](const auto &own) {
      return own->clocks.of(of->block->index, of->index) >= clock;
    };
    if (std::none_of(block.warps.begin(), block.warps.end(), knows))
      return block.grid->report(warp, i, lane,
                                "the block ends, and nothing orders that behind line " +
                                    std::to_string(visit.line) + ", where block " +
                                    std::to_string(visitor->block->index) +
                                    " touches its shared memory: a barrier of the cluster is "
                                    "missing");
  }
}

namespace {

// barrier.cluster.arrive{.release, .relaxed}{.aligned}
void arrive(Warp &warp, const Instruction &i) {
  Cluster &cluster = *warp.block->cluster;
  if (i.opcode.has(Mod::Aligned) && !warp.requireConverged(i))
    return;
  if (warp.clusterLanes & warp.active)
    return warp.block->grid->report(warp, i, firstLane(warp.clusterLanes & warp.active),
                                    "arrives at the barrier of the cluster a second time without "
                                    "a barrier.cluster.wait in between");
  // A relaxed arrival makes known what a fence did.
  const Clocks *known = i.opcode.has(Mod::Relaxed) ? warp.released[OfCluster].get() : &warp.clocks;
  if (known) {
    if (!cluster.gathered)
      cluster.gathered = *known;
    cluster.gathered->join(*known);
  }
  advance(warp);
  warp.clusterLanes |= warp.active;
  warp.clusterPhase = cluster.phase;
  cluster.arrived += unsigned(__builtin_popcount(warp.active));
  warp.block->grid->progress();
  completeClusterBarrier(cluster);
}

void wait(Warp &warp, const Instruction &i) {
  Cluster &cluster = *warp.block->cluster;
  if (i.opcode.has(Mod::Aligned) && !warp.requireConverged(i))
    return;
  if (warp.active & ~warp.clusterLanes)
    return warp.block->grid->report(warp, i, firstLane(warp.active & ~warp.clusterLanes),
                                    "waits for a barrier at which it has not arrived");
  if (cluster.phase == warp.clusterPhase) {
    warp.state = Warp::AtCluster;
    warp.waitLine = i.line;
    --warp.pc;
    return;
  }
  warp.clusterLanes &= ~warp.active;
  meetLanes(warp);
  if (cluster.known)
    warp.clocks.join(*cluster.known);
}

// mapa d, a, b: where block B of the cluster has what this one has at A.
void map(Warp &warp, const Instruction &i) {
  const Operand &to = warp.operand(i, 0), &from = warp.operand(i, 1), &rank = warp.operand(i, 2);
  if (!warp.requireDefined(i, rank, "the rank") || !warp.requireDefined(i, from, "the address"))
    return;
  size_t blocks = warp.block->cluster->blocks.size();
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    uint64_t which = warp.read(rank, lane) & 0xffffffff, address = warp.read(from, lane);
    if (which >= blocks)
      return warp.block->grid->report(warp, i, lane,
                                      "rank " + std::to_string(which) + " of a cluster of " +
                                          std::to_string(blocks));
    uint64_t ranks = kWindowBytes - (uint64_t(1) << kRankShift);
    warp.write(to, lane, (address & ~ranks) | (which + 1) << kRankShift);
  }
  warp.define(to, 0, i.line);
}

void rankOf(Warp &warp, const Instruction &i) {
  const Operand &to = warp.operand(i, 0), &from = warp.operand(i, 1);
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    uint64_t above = (warp.read(from, lane) & (kWindowBytes - 1)) >> kRankShift;
    warp.write(to, lane, above ? above - 1 : warp.block->rank);
  }
  warp.define(to, warp.undefinedLanes(from), warp.originOf(from));
}

} // namespace

Handler selectCluster(const Entry &, const Instruction &i) {
  const Opcode &code = i.opcode;
  switch (code.op) {
  case Op::Barrier:
    return !code.has(Mod::Cluster) ? nullptr
           : code.has(Mod::Arrive) ? arrive
           : code.has(Mod::W)      ? wait
                                   : nullptr;
  case Op::Getctarank:
    return i.groups == 2 ? rankOf : nullptr;
  case Op::Mapa:
    return i.groups == 3 ? map : nullptr;
  default:
    return nullptr;
  }
}

} // namespace moe::ptxsim
