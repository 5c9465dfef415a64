// Starts blocks, runs their warps in an order that the seed decides, and says who waits for what
// when none can go on.
#include "runtime/device/ptxsim/Machine.h"

#include "runtime/device/ptxsim/Warp.h"

#include <algorithm>
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
  for (const Product &product : products)
    if (product.instruction->line == line) {
      block->grid->report(*this, i, firstLane(bad),
                          std::string(what) + " depends on the product of line " +
                              std::to_string(line) + ", which is in flight: a wait is missing");
      return false;
    }
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
       {selectControl, selectCluster, selectLoadStore, selectAtomic, selectAsync, selectBulk,
        selectTensorCopy, selectMbarrier, selectCollective, selectTensor, selectWgmma, selectMove,
        selectConvert, selectInteger, selectFloat, selectPacked})
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
  const auto &cluster = block.grid->cluster;
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
  case Special::ClusteridX:
  case Special::ClusteridY:
  case Special::ClusteridZ: {
    unsigned axis = unsigned(special) - unsigned(Special::ClusteridX);
    return block.id[axis] / cluster[axis];
  }
  case Special::ClusterCtaidX:
  case Special::ClusterCtaidY:
  case Special::ClusterCtaidZ: {
    unsigned axis = unsigned(special) - unsigned(Special::ClusterCtaidX);
    return block.id[axis] % cluster[axis];
  }
  case Special::ClusterNctaidX:
  case Special::ClusterNctaidY:
  case Special::ClusterNctaidZ:
    return cluster[unsigned(special) - unsigned(Special::ClusterNctaidX)];
  case Special::ClusterCtarank:
    return block.rank;
  case Special::ClusterNctarank:
    return block.cluster->blocks.size();
  case Special::IsExplicitCluster:
    return block.grid->entry.cluster[0] != 0 || launch.cluster[0] != 0;
  case Special::NctaidX:
  case Special::NctaidY:
  case Special::NctaidZ:
    return launch.grid[unsigned(special) - unsigned(Special::NctaidX)];
  case Special::NclusteridX:
  case Special::NclusteridY:
  case Special::NclusteridZ:
    return launch.grid[unsigned(special) - unsigned(Special::NclusteridX)] /
           cluster[unsigned(special) - unsigned(Special::NclusteridX)];
  case Special::Laneid:
    return lane;
  case Special::Warpid:
    return warp.index;
  case Special::Nwarpid:
    return block.warps.size();
  case Special::Nsmid:
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

// As a new warp, but with the memory that it has.
void resetWarp(Warp &warp, Block &block, uint32_t index, uint32_t warps, uint32_t threads) {
  const Entry &entry = block.grid->entry;
  Warp fresh;
  fresh.slots = std::move(warp.slots);
  fresh.predicates = std::move(warp.predicates);
  fresh.undefined = std::move(warp.undefined);
  fresh.undefinedPredicate = std::move(warp.undefinedPredicate);
  fresh.origin = std::move(warp.origin);
  fresh.originPredicate = std::move(warp.originPredicate);
  fresh.local = std::move(warp.local);
  fresh.spareCopies = std::move(warp.spareCopies);
  fresh.clocks.own = std::move(warp.clocks.own);
  warp = std::move(fresh);
  warp.block = &block;
  warp.index = uint16_t(index);
  warp.alive = warp.lanes = threads == kLanes ? ~0u : (1u << threads) - 1;
  warp.join = uint32_t(entry.code.size()); // never reached
  warp.slots.assign(entry.slots + 1, Slot{});
  warp.undefined.assign(entry.slots + 1, ~0u);
  warp.origin.assign(entry.slots + 1, 0);
  warp.predicates.assign(entry.predicates + 1, 0); // one for a sink
  warp.undefinedPredicate.assign(entry.predicates + 1, ~0u);
  warp.originPredicate.assign(entry.predicates + 1, 0);
  warp.operands = entry.operands.data();
  warp.local.assign(size_t(entry.localBytes) * kLanes, 0);
  warp.clocks.block = block.index;
  warp.clocks.own.assign(warps, 0);
  warp.clocks.own[index] = 1;
  setConstants(warp);
}

// A block of the cluster, which must have all of its blocks when their warps start.
std::unique_ptr<Block> newBlock(Grid &grid, const std::array<uint32_t, 3> &id,
                                std::shared_ptr<Cluster> cluster) {
  const Entry &entry = grid.entry;
  const Launch &launch = grid.launch;
  auto block = std::make_unique<Block>();
  if (!grid.pool.blocks.empty()) {
    std::unique_ptr<Block> old = std::move(grid.pool.blocks.back());
    grid.pool.blocks.pop_back();
    block->warps = std::move(old->warps);
    block->shared = std::move(old->shared);
    block->shadow = std::move(old->shadow);
    block->writers = std::move(old->writers);
    block->readers = std::move(old->readers);
    block->laneWrites = std::move(old->laneWrites);
  }
  block->grid = &grid;
  block->id = id;
  block->index = id[0] + launch.grid[0] * (id[1] + launch.grid[1] * id[2]);
  block->rank = uint32_t(cluster->blocks.size());
  cluster->blocks.push_back(block.get());
  block->cluster = std::move(cluster);
  uint64_t sharedEnd = launch.sharedBytes ? kSharedDynamic + launch.sharedBytes : 0;
  for (const Variable &variable : entry.shared)
    sharedEnd = std::max(sharedEnd, variable.offset + variable.bytes);
  sharedEnd = (sharedEnd + 64) & ~uint64_t(15);
  block->shared.assign(sharedEnd, 0);
  block->shadow.assign(sharedEnd, uint8_t(Byte::RedZone));
  auto open = [&](uint64_t offset, uint64_t bytes) {
    std::fill_n(block->shadow.begin() + ptrdiff_t(offset), bytes, uint8_t(Byte::Unwritten));
  };
  for (const Variable &variable : entry.shared)
    open(variable.offset, variable.bytes);
  if (launch.sharedBytes)
    open(kSharedDynamic, launch.sharedBytes);
  block->laneWrites.assign(grid.options.races ? sharedEnd / 4 : 0, 0);
  block->firstSegment = grid.segments.next();
  if (grid.options.races && block->writers.size() < sharedEnd / 4) {
    block->writers.resize(sharedEnd / 4);
    block->readers.resize(sharedEnd / 4);
  }
  return block;
}

void startWarps(Block &block) {
  const auto &size = block.grid->launch.block;
  uint32_t threads = size[0] * size[1] * size[2];
  uint32_t warps = (threads + kLanes - 1) / kLanes;
  block.warps.resize(warps);
  for (uint32_t w = 0; w < warps; ++w) {
    if (!block.warps[w])
      block.warps[w] = std::make_unique<Warp>();
    resetWarp(*block.warps[w], block, w, warps, std::min(kLanes, threads - w * kLanes));
  }
}

// Starts the blocks of the cluster with that number.
void startCluster(Grid &grid, uint64_t number) {
  auto cluster = std::make_shared<Cluster>();
  const auto &size = grid.cluster;
  uint64_t x = grid.launch.grid[0] / size[0], y = grid.launch.grid[1] / size[1];
  std::array<uint64_t, 3> at{number % x, number / x % y, number / (x * y)};
  for (uint32_t n = 0; n < size[0] * size[1] * size[2]; ++n)
    grid.blocks.push_back(newBlock(grid,
                                   {uint32_t(at[0] * size[0] + n % size[0]),
                                    uint32_t(at[1] * size[1] + n / size[0] % size[1]),
                                    uint32_t(at[2] * size[2] + n / (size[0] * size[1]))},
                                   cluster));
  for (Block *block : cluster->blocks)
    startWarps(*block);
}

[[gnu::noinline]] void reportGuard(Warp &warp, const Instruction &i) {
  Operand guard;
  guard.kind = Operand::Predicate;
  guard.slot = i.guard;
  warp.requireDefined(i, guard, "the guard");
}

// Executes up to COUNT instructions of a warp that is ready.
void takeTurn(Grid &grid, Warp &warp, uint32_t count) {
  const Instruction *code = grid.entry.code.data();
  warp.yields = false;
  uint32_t done = 0;
  while (done < count) {
    ++done;
    const Instruction &i = code[warp.pc++];
    warp.active = warp.lanes;
    if (i.guard != Instruction::always) {
      if (warp.undefinedPredicate[i.guard] & warp.lanes && grid.options.uninitialised)
        return reportGuard(warp, i);
      uint32_t holds = warp.predicates[i.guard];
      warp.active &= i.guardNegated ? ~holds : holds;
    }
    if (warp.active)
      i.handler(warp, i);
    if (warp.state != Warp::Ready)
      break;
    if (warp.pc == warp.join)
      joinPaths(warp);
    if (warp.yields || grid.violation)
      break;
  }
  grid.stats.instructions += done;
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
      } else if (warp->state == Warp::AtCluster) {
        text += " waits at line " + std::to_string(warp->waitLine) +
                " for the barrier of its cluster, where " +
                std::to_string(block->cluster->arrived) + " of " +
                std::to_string(block->cluster->aliveThreads()) + " threads are";
      } else {
        text += " spins at line " + std::to_string(line);
      }
    }
  if (started < blocks)
    text += "\n  " + std::to_string(blocks - started) + " blocks have not started";
  if (!grid.launch.sample.empty())
    text += "\n  a sample of " + std::to_string(blocks) + " blocks of the grid was launched";
  return text;
}

constexpr uint64_t kMostClusterBlocks = 8; // all devices that have clusters can

std::array<uint32_t, 3> clusterOf(const Entry &entry, const Launch &launch) {
  return entry.cluster[0]    ? entry.cluster
         : launch.cluster[0] ? launch.cluster
                             : std::array<uint32_t, 3>{1, 1, 1};
}

std::string triple(const std::array<uint32_t, 3> &of) {
  return ptxsim::triple(of[0], of[1], of[2]);
}

Status checkLaunch(const Entry &entry, const Launch &launch) {
  auto wrong = [&](const std::string &what) {
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
  if (entry.cluster[0] && launch.cluster[0] && entry.cluster != launch.cluster)
    return wrong("clusters of " + triple(launch.cluster) + ", and .reqnctapercluster asks for " +
                 triple(entry.cluster));
  const auto cluster = clusterOf(entry, launch);
  uint64_t blocks = uint64_t(cluster[0]) * cluster[1] * cluster[2];
  if (blocks == 0 || blocks > kMostClusterBlocks)
    return wrong("a cluster of " + std::to_string(blocks) + " blocks, expected 1 to " +
                 std::to_string(kMostClusterBlocks));
  for (unsigned axis = 0; axis < 3; ++axis)
    if (launch.grid[axis] % cluster[axis])
      return wrong("the grid " + triple(launch.grid) + " is not whole clusters of " +
                   triple(cluster));
  uint64_t clusters = uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2] / blocks;
  for (size_t n = 0; n < launch.sample.size(); ++n)
    if (launch.sample[n] >= clusters || (n && launch.sample[n] <= launch.sample[n - 1]))
      return wrong("the sample has " + std::to_string(launch.sample[n]) + " at " +
                   std::to_string(n) + ", expected ascending numbers below " +
                   std::to_string(clusters));
  return ok();
}

// Lets warps take turns until all blocks are done.
Status schedule(Grid &grid) {
  const auto &size = grid.launch.grid;
  const auto &sample = grid.launch.sample;
  size_t together = size_t(grid.cluster[0]) * grid.cluster[1] * grid.cluster[2], started = 0;
  size_t blocks = sample.empty() ? size_t(size[0]) * size[1] * size[2] : sample.size() * together;
  size_t resident = std::max<size_t>(together, grid.options.residentBlocks);
  std::vector<Block *> order;
  std::vector<Warp *> ready;
  for (;;) {
    std::erase_if(grid.blocks, [&](auto &block) {
      if (!block->done() || !block->cluster->done())
        return false;
      grid.pool.blocks.push_back(std::move(block));
      return true;
    });
    for (; started < blocks && grid.blocks.size() + together <= resident; started += together)
      startCluster(grid, sample.empty() ? started / together : sample[started / together]);
    if (grid.blocks.empty())
      return ok();
    // Blocks take turns in random order, each with several rounds of its warps: what a block
    // touches stays in the host's cache for a while.
    order.clear();
    for (const auto &block : grid.blocks)
      order.push_back(block.get());
    std::shuffle(order.begin(), order.end(), grid.random);
    bool any = false;
    for (Block *block : order)
      for (uint64_t rounds = 1 + grid.random() % 16; rounds--;) {
        ready.clear();
        for (const auto &warp : block->warps)
          if (warp->state == Warp::Ready)
            ready.push_back(warp.get());
        if (ready.empty())
          break;
        any = true;
        std::shuffle(ready.begin(), ready.end(), grid.random);
        for (Warp *warp : ready) {
          if (warp->state != Warp::Ready)
            continue;
          takeTurn(grid, *warp, 1 + uint32_t(grid.random() % 128));
          if (grid.violation)
            return *grid.violation;
        }
      }
    if (!any || grid.stats.instructions - grid.lastProgress > grid.options.spinLimit)
      return Error{Code::InvalidArgument, deadlockReport(grid, started, blocks)};
  }
}

} // namespace

void selectHandlers(Entry &entry) {
  entry.productIndex.assign(entry.slots + 1, 0);
  std::vector<bool> seen(entry.slots + 1, false);
  for (Instruction &i : entry.code) {
    i.handler = select(entry, i);
    if (!i.handler || i.opcode.op != Op::Wgmma || !i.opcode.has(Mod::MmaAsync))
      continue;
    for (unsigned n = 0; n < i.operands; ++n) {
      const Operand &o = entry.operands[i.first + n];
      if (o.kind != Operand::Register || o.bits != 32 || seen[o.slot])
        continue;
      seen[o.slot] = true;
      entry.productIndex[o.slot] = uint16_t(entry.productSlots.size());
      entry.productSlots.push_back(o.slot);
    }
  }
}

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
  if (memory.nextSegment > 3'000'000'000)
    memory.forgetAccesses();
  Grid grid{module,
            *entry,
            launch,
            memory,
            options,
            *memory.pool,
            clusterOf(*entry, launch),
            {},
            {},
            std::mt19937_64(options.seed),
            {},
            Segments(memory.nextSegment),
            false,
            0,
            {}};
  for (const Instruction &i : entry->code)
    if (!i.handler)
      return Error{Code::Unimplemented, "line " + std::to_string(i.line) + " of '" + entry->name +
                                            "': this form of '" + std::string(nameOf(i.opcode.op)) +
                                            "' is not simulated"};
  Status status = schedule(grid);
  memory.nextSegment = grid.segments.next();
  for (auto &block : grid.blocks) // after an error
    memory.pool->blocks.push_back(std::move(block));
  MOE_TRY(status);
  if (launch.chain && !grid.waited)
    return Error{Code::InvalidArgument,
                 "kernel '" + entry->name +
                     "' was launched as a dependent and ended without griddepcontrol.wait, so a "
                     "later one that waits for it does not wait for those before"};
  return grid.stats;
}

} // namespace moe::ptxsim
