// Branches and the paths of diverged lanes, exits, block barriers.
#include "runtime/device/ptxsim/Warp.h"

#include <algorithm>

namespace moe::ptxsim {

void joinPaths(Warp &warp) {
  while (!warp.paths.empty() && (warp.pc == warp.join || !warp.lanes)) {
    Warp::Path next = warp.paths.back();
    warp.paths.pop_back();
    warp.pc = next.pc;
    warp.lanes = next.lanes & warp.alive;
    warp.join = next.join;
  }
}

void exitLanes(Warp &warp) {
  warp.alive &= ~warp.active;
  warp.lanes &= warp.alive;
  if (!warp.lanes)
    joinPaths(warp);
  warp.block->grid->progress();
  if (warp.alive)
    return;
  warp.state = Warp::Done;
  // Barriers wait for those that are still there.
  for (unsigned number = 0; number < warp.block->barriers.size(); ++number)
    completeBarrier(*warp.block, number);
  completeClusterBarrier(*warp.block->cluster);
}

void completeBarrier(Block &block, unsigned number) {
  Barrier &barrier = block.barriers[number];
  unsigned expected = barrier.expected ? barrier.expected : block.aliveThreads();
  if (!barrier.arrived || barrier.arrived < expected)
    return;
  std::vector<Warp *> waiting = std::move(barrier.waiting);
  for (Warp *warp : waiting) {
    if (barrier.clocks)
      warp->clocks.join(*barrier.clocks);
    advance(*warp);
    meetLanes(*warp);
    const Instruction &i = block.grid->entry.code[warp->pc - 1];
    if (i.opcode.has(Mod::Red)) {
      const Operand &to = warp->operand(i, 0);
      if (to.kind == Operand::Predicate)
        warp->writePredicate(to, (i.opcode.has(Mod::And) ? barrier.all : barrier.any) ? ~0u : 0);
      else
        for (unsigned lane = 0; lane < kLanes; ++lane)
          if (warp->active >> lane & 1)
            warp->write(to, lane, barrier.votes);
      warp->define(to, 0, i.line);
    }
    warp->state = Warp::Ready;
    // The barrier may be where paths join.
    joinPaths(*warp);
  }
  barrier = Barrier();
  block.grid->progress();
}

namespace {

void branch(Warp &warp, const Instruction &i) {
  uint32_t target = uint32_t(warp.operands[i.first].value);
  uint32_t stay = warp.lanes & ~warp.active;
  if (!stay) {
    warp.pc = target;
    return;
  }
  // The lanes that join continue when both paths have come there.
  warp.paths.push_back({i.reconverge, warp.lanes, warp.join});
  warp.paths.push_back({warp.pc, stay, i.reconverge});
  warp.pc = target;
  warp.lanes = warp.active;
  warp.join = i.reconverge;
}

void leave(Warp &warp, const Instruction &i) {
  requireStoresDone(warp, i);
  exitLanes(warp);
  if (warp.block->grid->options.races && warp.block->done())
    requireMemoryQuiet(warp, i);
}
void nothing(Warp &, const Instruction &) {}
void yield(Warp &warp, const Instruction &) { warp.yields = true; }

// Grids run one after the other, but what it orders is checked.
void waitForGrids(Warp &warp, const Instruction &) {
  warp.block->waited.push_back({warp.index, warp.clocks.own[warp.index]});
  warp.block->grid->waited = true;
  warp.dependenciesMet = true;
}

void trap(Warp &warp, const Instruction &i) {
  warp.block->grid->report(warp, i, firstLane(warp.active), "the kernel traps");
}

// bar.sync a, b; bar.arrive a, b; bar.red.op d, a, b, p;
void blockBarrier(Warp &warp, const Instruction &i) {
  const Opcode &code = i.opcode;
  Block &block = *warp.block;
  Grid &grid = *block.grid;
  unsigned lane = firstLane(warp.active);
  bool reduces = code.has(Mod::Red);
  unsigned group = reduces ? 1 : 0;
  if (!warp.requireConverged(i) ||
      (i.groups > group && !warp.requireDefined(i, warp.operand(i, group), "the barrier's number")))
    return;
  uint64_t number = i.groups > group ? warp.read(warp.operand(i, group), lane) : 0;
  bool hasCount = i.groups > group + (reduces ? 2u : 1u);
  uint64_t count = hasCount ? warp.read(warp.operand(i, group + 1), lane) : 0;
  if (number >= block.barriers.size())
    return grid.report(warp, i, lane, "barrier " + std::to_string(number) + " of 16");
  if (hasCount && (count == 0 || count % kLanes != 0))
    return grid.report(warp, i, lane,
                       "a barrier of " + std::to_string(count) +
                           " threads, which is not a multiple of the warp size");
  const auto &size = grid.launch.block;
  if (count == uint64_t(size[0]) * size[1] * size[2])
    count = 0; // all, however it is said
  Barrier &barrier = block.barriers[number];
  if (barrier.arrived && barrier.expected != count)
    return grid.report(warp, i, lane,
                       "barrier " + std::to_string(number) + " expects " + std::to_string(count) +
                           " threads here and " + std::to_string(barrier.expected) + " elsewhere");
  if (!barrier.clocks)
    barrier.clocks = warp.clocks;
  else
    barrier.clocks->join(warp.clocks);
  barrier.expected = unsigned(count);
  barrier.arrived += count ? kLanes : unsigned(__builtin_popcount(warp.alive));
  if (reduces) {
    const Operand &p = warp.operand(i, i.groups - 1);
    uint32_t holds = (warp.predicates[p.slot] ^ (p.negated ? ~0u : 0)) & warp.active;
    barrier.votes += unsigned(__builtin_popcount(holds));
    barrier.any |= holds != 0;
    barrier.all &= holds == warp.active;
  }
  if (code.has(Mod::Arrive)) {
    advance(warp);
  } else {
    warp.state = Warp::AtBarrier;
    warp.waitLine = i.line;
    warp.waitsFor = uint32_t(number);
    barrier.waiting.push_back(&warp);
  }
  grid.progress();
  completeBarrier(block, unsigned(number));
}

Handler selectBarrier(const Instruction &i) {
  const Opcode &code = i.opcode;
  if (code.hasAny({Mod::Warp, Mod::Cluster}))
    return nullptr; // a collective, or of clusters
  bool known = code.hasAny({Mod::Sync, Mod::Arrive, Mod::Red});
  bool fits = code.has(Mod::Red) ? i.groups >= 3 : i.groups >= 1;
  return known && fits ? blockBarrier : nullptr;
}

} // namespace

Handler selectControl(const Entry &entry, const Instruction &i) {
  switch (i.opcode.op) {
  case Op::Bra:
    return i.operands == 1 && entry.operands[i.first].kind == Operand::Label ? branch : nullptr;
  case Op::Exit:
  case Op::Ret:
    return leave;
  case Op::Bar:
  case Op::Barrier:
    return selectBarrier(i);
  case Op::Nanosleep:
    return yield;
  case Op::Trap:
  case Op::Brkpt:
    return trap;
  case Op::Griddepcontrol:
    return i.opcode.has(Mod::W) ? waitForGrids : nothing;
  case Op::Prefetch:
    return i.opcode.has(Mod::Tensormap) ? nullptr : nothing; // a tensor copy's
  case Op::Pmevent:
  case Op::Setmaxnreg:
  case Op::Applypriority:
    return nothing;
  default:
    return nullptr;
  }
}

} // namespace moe::ptxsim
