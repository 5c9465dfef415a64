// Starts blocks, runs their warps in an order that the seed decides, and says who waits for what
// when none can go on.
#include "runtime/device/ptxsim/Machine.h"

#include "runtime/device/ptxsim/Warp.h"

#include <algorithm>
#include <atomic>
#include <cstdio>

namespace moe::ptxsim {

std::string hexText(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

static std::string triple(uint32_t x, uint32_t y, uint32_t z) {
  return "(" + std::to_string(x) + ", " + std::to_string(y) + ", " + std::to_string(z) + ")";
}

void Grid::report(const Warp &warp, const Instruction &i, unsigned lane, const std::string &what) {
  if (violation)
    return;
  uint32_t thread = warp.index * kLanes + lane;
  const auto &size = launch.block;
  violation =
      Error{Code::InvalidArgument,
            "kernel '" + entry.name + "', line " + std::to_string(i.line) + " (" +
                std::string(nameOf(i.opcode.op)) + "), block " +
                triple(warp.block->id[0], warp.block->id[1], warp.block->id[2]) + ", thread " +
                triple(thread % size[0], thread / size[0] % size[1], thread / (size[0] * size[1])) +
                ": " + what};
}

void Warp::define(const Operand &o, uint32_t bad, uint32_t line) {
  if (o.kind == Operand::Sink || (o.kind != Operand::Register && o.kind != Operand::Predicate))
    return;
  bool predicate = o.kind == Operand::Predicate;
  uint32_t &state = (predicate ? undefinedPredicate : undefined)[o.slot];
  bad &= active;
  state = (state & ~active) | bad;
  if (bad)
    (predicate ? originPredicate : origin)[o.slot] = line;
}

bool Warp::requireDefined(const Instruction &i, const Operand &o, const char *what) {
  uint32_t bad = undefinedLanes(o) & active;
  if (!bad || !block->grid->options.uninitialised)
    return true;
  uint32_t line = originOf(o);
  block->grid->report(*this, i, firstLane(bad),
                      std::string(what) + " depends on a value that nothing wrote" +
                          (line && line != i.line ? ", since line " + std::to_string(line) : ""));
  return false;
}

bool Warp::requireConverged(const Instruction &i) {
  if (active == alive)
    return true;
  block->grid->report(*this, i, firstLane(active),
                      "lanes " + hexText(active) + " execute this, but " + hexText(alive) +
                          " must do so together");
  return false;
}

unsigned Block::aliveThreads() const {
  unsigned count = 0;
  for (const auto &warp : warps)
    count += unsigned(__builtin_popcount(warp->alive));
  return count;
}

bool Block::done() const {
  return std::all_of(warps.begin(), warps.end(),
                     [](const auto &warp) { return warp->state == Warp::Done; });
}

namespace {

Handler select(const Entry &entry, const Instruction &i) {
  for (auto select :
       {selectControl, selectLoadStore, selectAtomic, selectAsync, selectMbarrier, selectCollective,
        selectTensor, selectMove, selectConvert, selectInteger, selectFloat, selectPacked})
    if (Handler handler = select(entry, i))
      return handler;
  return nullptr;
}

uint64_t specialValue(Special special, const Warp &warp, unsigned lane) {
  const Block &block = *warp.block;
  const Launch &launch = block.grid->launch;
  uint32_t thread = warp.index * kLanes + lane;
  uint32_t bit = 1u << lane;
  const auto &size = launch.block;
  switch (special) {
  case Special::TidX:
    return thread % size[0];
  case Special::TidY:
    return thread / size[0] % size[1];
  case Special::TidZ:
    return thread / (size[0] * size[1]);
  case Special::NtidX:
  case Special::NtidY:
  case Special::NtidZ:
    return size[unsigned(special) - unsigned(Special::NtidX)];
  case Special::CtaidX:
  case Special::CtaidY:
  case Special::CtaidZ:
    return block.id[unsigned(special) - unsigned(Special::CtaidX)];
  case Special::ClusteridX: // clusters of one block
  case Special::ClusteridY:
  case Special::ClusteridZ:
    return block.id[unsigned(special) - unsigned(Special::ClusteridX)];
  case Special::NctaidX:
  case Special::NctaidY:
  case Special::NctaidZ:
    return launch.grid[unsigned(special) - unsigned(Special::NctaidX)];
  case Special::NclusteridX:
  case Special::NclusteridY:
  case Special::NclusteridZ:
    return launch.grid[unsigned(special) - unsigned(Special::NclusteridX)];
  case Special::Laneid:
    return lane;
  case Special::Warpid:
    return warp.index;
  case Special::Nwarpid:
    return block.warps.size();
  case Special::Nsmid:
  case Special::ClusterNctaidX:
  case Special::ClusterNctaidY:
  case Special::ClusterNctaidZ:
  case Special::ClusterNctarank:
    return 1;
  case Special::LanemaskEq:
    return bit;
  case Special::LanemaskLt:
    return bit - 1;
  case Special::LanemaskLe:
    return bit | (bit - 1);
  case Special::LanemaskGt:
    return ~(bit | (bit - 1));
  case Special::LanemaskGe:
    return ~(bit - 1);
  case Special::DynamicSmem:
  case Special::TotalSmem:
    return launch.sharedBytes;
  default:
    return 0;
  }
}

void setConstants(Warp &warp) {
  const Grid &grid = *warp.block->grid;
  for (const Constant &constant : grid.entry.constants) {
    if (constant.bits == 1) {
      warp.predicates[constant.slot] = constant.value & 1 ? ~0u : 0;
      warp.undefinedPredicate[constant.slot] = 0;
      continue;
    }
    warp.undefined[constant.slot] = 0;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      uint64_t value = constant.value;
      if (constant.kind == Constant::Global)
        value = grid.launch.globals[size_t(constant.value)];
      else if (constant.kind == Constant::Special)
        value = specialValue(Special(constant.value), warp, lane);
      if (constant.bits == 64)
        warp.longs(constant.slot)[lane] = value;
      else
        warp.words(constant.slot)[lane] = uint32_t(value);
    }
  }
}

std::unique_ptr<Block> startBlock(Grid &grid, uint32_t index) {
  auto block = std::make_unique<Block>();
  const Entry &entry = grid.entry;
  const Launch &launch = grid.launch;
  block->grid = &grid;
  block->index = index;
  block->id = {index % launch.grid[0], index / launch.grid[0] % launch.grid[1],
               index / (launch.grid[0] * launch.grid[1])};
  uint64_t sharedEnd = launch.sharedBytes ? kSharedDynamic + launch.sharedBytes : 0;
  for (const Variable &variable : entry.shared)
    sharedEnd = std::max(sharedEnd, variable.offset + variable.bytes);
  sharedEnd = (sharedEnd + 64) & ~uint64_t(15);
  block->shared.resize(sharedEnd);
  block->shadow.assign(sharedEnd, uint8_t(Byte::RedZone));
  auto open = [&](uint64_t offset, uint64_t bytes) {
    std::fill_n(block->shadow.begin() + ptrdiff_t(offset), bytes, uint8_t(Byte::Unwritten));
  };
  for (const Variable &variable : entry.shared)
    open(variable.offset, variable.bytes);
  if (launch.sharedBytes)
    open(kSharedDynamic, launch.sharedBytes);
  if (grid.options.races)
    block->races.resize(sharedEnd / 4);
  uint32_t threads = launch.block[0] * launch.block[1] * launch.block[2];
  uint32_t warps = (threads + kLanes - 1) / kLanes;
  for (uint32_t w = 0; w < warps; ++w)
    block->warps.push_back(std::make_unique<Warp>());
  for (uint32_t w = 0; w < warps; ++w) {
    Warp &warp = *block->warps[w];
    warp.block = block.get();
    warp.index = uint16_t(w);
    uint32_t count = std::min(kLanes, threads - w * kLanes);
    warp.alive = warp.lanes = count == kLanes ? ~0u : (1u << count) - 1;
    warp.join = uint32_t(entry.code.size()); // never reached
    warp.slots.resize(entry.slots + 1);
    warp.undefined.assign(entry.slots + 1, ~0u);
    warp.origin.assign(entry.slots + 1, 0);
    warp.predicates.assign(entry.predicates + 1, 0); // one for a sink
    warp.undefinedPredicate.assign(entry.predicates + 1, ~0u);
    warp.originPredicate.assign(entry.predicates + 1, 0);
    warp.operands = entry.operands.data();
    warp.local.resize(size_t(entry.localBytes) * kLanes);
    warp.clocks.block = index;
    warp.clocks.own.assign(warps, 0);
    warp.clocks.own[w] = 1;
    setConstants(warp);
  }
  return block;
}

void step(Grid &grid, Warp &warp) {
  const Instruction &i = grid.entry.code[warp.pc];
  Handler handler = grid.handlers[warp.pc];
  warp.active = warp.lanes;
  ++warp.pc;
  ++warp.stamp;
  ++grid.stats.instructions;
  if (i.guard != Instruction::always) {
    uint32_t bad = warp.undefinedPredicate[i.guard] & warp.lanes;
    if (bad && grid.options.uninitialised) {
      Operand guard;
      guard.kind = Operand::Predicate;
      guard.slot = i.guard;
      warp.requireDefined(i, guard, "the guard");
      return;
    }
    uint32_t holds = warp.predicates[i.guard];
    warp.active &= i.guardNegated ? ~holds : holds;
  }
  if (warp.active)
    handler(warp, i);
  if (warp.pc == warp.join && warp.state == Warp::Ready)
    joinPaths(warp);
}

std::string deadlockReport(const Grid &grid, size_t started, size_t blocks) {
  std::string text = "kernel '" + grid.entry.name + "': no warp can go on";
  unsigned listed = 0;
  for (const auto &block : grid.blocks)
    for (const auto &warp : block->warps) {
      if (warp->state == Warp::Done)
        continue;
      if (++listed > 64)
        return text + "\n  ...";
      uint32_t line = grid.entry.code[std::min<size_t>(warp->pc, grid.entry.code.size() - 1)].line;
      text += "\n  block " + triple(block->id[0], block->id[1], block->id[2]) + " warp " +
              std::to_string(warp->index);
      if (warp->state == Warp::AtBarrier) {
        const Barrier &barrier = block->barriers[warp->waitsFor];
        text += " waits at line " + std::to_string(warp->waitLine) + " for barrier " +
                std::to_string(warp->waitsFor) + ", where " + std::to_string(barrier.arrived) +
                " of " +
                std::to_string(barrier.expected ? barrier.expected : block->aliveThreads()) +
                " threads are";
      } else if (warp->state == Warp::AtMbarrier) {
        auto found = block->mbarriers.find(warp->waitsFor);
        text += " waits at line " + std::to_string(warp->waitLine) +
                " for the mbarrier at shared " + hexText(warp->waitsFor);
        if (found != block->mbarriers.end())
          text += ", phase " + std::to_string(found->second.phase) + ", which lacks " +
                  std::to_string(found->second.pending) + " arrivals and " +
                  std::to_string(found->second.bytes) + " bytes";
      } else {
        text += " spins at line " + std::to_string(line);
      }
    }
  if (started < blocks)
    text += "\n  " + std::to_string(blocks - started) + " blocks have not started";
  return text;
}

Status checkLaunch(const Entry &entry, const Launch &launch) {
  auto wrong = [&](std::string what) {
    return Error{Code::InvalidArgument, "launch of '" + entry.name + "': " + what};
  };
  uint64_t threads = uint64_t(launch.block[0]) * launch.block[1] * launch.block[2];
  if (threads == 0 || threads > 1024 || launch.block[0] > 1024 || launch.block[1] > 1024)
    return wrong("a block of " + std::to_string(threads) + " threads");
  if (uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2] == 0 ||
      launch.grid[0] > 0x7fffffff || launch.grid[1] > 65535 || launch.grid[2] > 65535)
    return wrong("the grid is empty or too large");
  if (launch.params.size() != entry.paramBytes)
    return wrong(std::to_string(launch.params.size()) + " bytes of parameters, expected " +
                 std::to_string(entry.paramBytes));
  if (entry.requiredBlock[0] && entry.requiredBlock != launch.block)
    return wrong("the block is not the one that .reqntid asks for");
  if (entry.mostThreads[0] &&
      threads > uint64_t(entry.mostThreads[0]) * entry.mostThreads[1] * entry.mostThreads[2])
    return wrong("more threads than .maxntid allows");
  if (launch.sharedBytes > kSharedMost)
    return wrong(std::to_string(launch.sharedBytes) + " bytes of shared memory");
  if (entry.cluster[0] && entry.cluster[0] * entry.cluster[1] * entry.cluster[2] != 1)
    return Error{Code::Unimplemented, "'" + entry.name + "' asks for clusters"};
  return ok();
}

// Lets warps take turns until all blocks are done.
Status schedule(Grid &grid) {
  const auto &size = grid.launch.grid;
  size_t blocks = size_t(size[0]) * size[1] * size[2], started = 0;
  std::vector<Warp *> ready;
  for (;;) {
    std::erase_if(grid.blocks, [](const auto &block) { return block->done(); });
    while (started < blocks && grid.blocks.size() < std::max(1u, grid.options.residentBlocks))
      grid.blocks.push_back(startBlock(grid, uint32_t(started++)));
    if (grid.blocks.empty())
      return ok();
    ready.clear();
    for (const auto &block : grid.blocks)
      for (const auto &warp : block->warps)
        if (warp->state == Warp::Ready)
          ready.push_back(warp.get());
    if (ready.empty() || grid.stats.instructions - grid.lastProgress > grid.options.spinLimit)
      return Error{Code::InvalidArgument, deadlockReport(grid, started, blocks)};
    // A round: every warp that is ready takes a turn, in random order.
    std::shuffle(ready.begin(), ready.end(), grid.random);
    for (Warp *warp : ready) {
      uint32_t turn = 1 + uint32_t(grid.random() % 128);
      warp->yields = false;
      while (turn-- && warp->state == Warp::Ready && !warp->yields && !grid.violation)
        step(grid, *warp);
      if (grid.violation)
        return *grid.violation;
    }
  }
}

} // namespace

Result<std::vector<uint64_t>> allocateGlobals(const Module &module, Memory &memory) {
  std::vector<uint64_t> addresses;
  for (const Variable &variable : module.globals) {
    MOE_ASSIGN(address, memory.allocate(std::max<uint64_t>(variable.bytes, 1), variable.name));
    // Static storage is zero unless it says otherwise.
    MOE_TRY(memory.fill(address, std::max<uint64_t>(variable.bytes, 1), std::byte(0)));
    MOE_TRY(memory.copyIn(address, std::as_bytes(std::span(variable.initial))));
    addresses.push_back(address);
  }
  return addresses;
}

Result<Stats> run(const Module &module, std::string_view name, const Launch &launch, Memory &memory,
                  const Options &options) {
  const Entry *entry = module.find(name);
  if (!entry)
    return Error{Code::InvalidArgument, "the module has no entry '" + std::string(name) + "'"};
  MOE_TRY(checkLaunch(*entry, launch));
  if (launch.globals.size() != module.globals.size())
    return Error{Code::InvalidArgument, "the variables of the module have no addresses"};
  static std::atomic<uint32_t> launches{0};
  Grid grid{module, *entry, launch, memory, options, {}, {}, {}, std::mt19937_64(options.seed),
            {},     0,      0,      {}};
  grid.launchNumber = ++launches;
  for (const Instruction &i : entry->code) {
    Handler handler = select(*entry, i);
    if (!handler)
      return Error{Code::Unimplemented, "line " + std::to_string(i.line) + " of '" + entry->name +
                                            "': this form of '" + std::string(nameOf(i.opcode.op)) +
                                            "' is not simulated"};
    grid.handlers.push_back(handler);
  }
  MOE_TRY(schedule(grid));
  return grid.stats;
}

} // namespace moe::ptxsim
