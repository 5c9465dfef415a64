// mbarriers: phases that end when all arrivals have come and all announced bytes were copied. Their
// state is kept beside shared memory, where kernels cannot look into it.
#include "runtime/device/ptxsim/Bulk.h"

#include <algorithm>
#include <cstring>

namespace moe::ptxsim {

namespace {

void completePhase(Block &block, uint32_t address, Mbarrier &mbarrier) {
  if (mbarrier.pending != 0 || mbarrier.bytes != 0)
    return;
  ++mbarrier.phase;
  mbarrier.pending = mbarrier.expected;
  mbarrier.completed = mbarrier.gathered;
  for (const auto &warp : block.warps)
    if (warp->state == Warp::AtMbarrier && warp->waitsFor == address)
      warp->state = Warp::Ready;
  block.grid->progress();
}

// Lets one of the copies that complete at ADDRESS take place. False if there is none.
bool deliver(Block &block, uint32_t address) {
  std::vector<size_t> candidates;
  for (size_t n = 0; n < block.loads.size(); ++n)
    if (block.loads[n].mbarrier == address)
      candidates.push_back(n);
  if (candidates.empty())
    return false;
  size_t which = candidates[block.grid->random() % candidates.size()];
  BulkLoad load = std::move(block.loads[which]);
  block.loads.erase(block.loads.begin() + ptrdiff_t(which));
  std::vector<uint8_t> written(load.bytes);
  readSource(*block.grid, load, block.shared.data() + load.to, written.data());
  copyWritten(block.shadow.data() + load.to, written.data(), load.bytes);
  raceShared(*load.warp, *load.instruction, load.lane, block, load.to, load.bytes, true, false,
             true, load.segment, load.clocks);
  arriveAt(block, address, 0, load.bytes, &load.clocks, &load.clocks);
  return true;
}

// The mbarrier that a lane names, or null after a report. ADDRESS: where it is in OWNER.
Mbarrier *find(Warp &warp, const Instruction &i, unsigned lane, const Operand &operand,
               Block *&owner, uint32_t &address, bool initialises) {
  Grid &grid = *warp.block->grid;
  uint64_t full = addressOf(warp, operand, lane), offset = full & (kWindowBytes - 1);
  bool shared = full < kWindowBytes || full - kSharedWindow < kWindowBytes;
  owner = shared ? ownerOf(warp, i, offset) : nullptr;
  // Generic addresses are of the own block only.
  if (owner && owner != warp.block && !i.opcode.has(Mod::SharedCluster))
    owner = nullptr;
  address = uint32_t(offset);
  bool inside = owner && offset + 8 <= owner->shared.size() && offset % 8 == 0 &&
                owner->shadow[offset] != uint8_t(Byte::RedZone) &&
                owner->shadow[offset + 7] != uint8_t(Byte::RedZone);
  if (!inside) {
    grid.report(warp, i, lane, "no room for an mbarrier at " + hexText(full));
    return nullptr;
  }
  auto found = owner->mbarriers.find(address);
  if (!initialises && found == owner->mbarriers.end()) {
    grid.report(warp, i, lane, "no mbarrier was initialised at shared " + hexText(full));
    return nullptr;
  }
  // Its initialisation must be ordered before its use; uses are atomic, and hide it from the words'
  // memory of their last access.
  if (!initialises && grid.options.races) {
    const Warp &by = *found->second.initialiser;
    if (&by != &warp && warp.clocks.of(by.block->index, by.index) < found->second.initialised) {
      grid.report(warp, i, lane,
                  "race: uses the mbarrier at shared " + hexText(full) + ", which block " +
                      std::to_string(by.block->index) + " warp " + std::to_string(by.index) +
                      " initialised, with nothing in between that orders them");
      return nullptr;
    }
  }
  if (!visit(warp, i, lane, *owner) ||
      !raceShared(warp, i, lane, *owner, address, 8, true, !initialises))
    return nullptr;
  return found == owner->mbarriers.end() ? &owner->mbarriers[address] : &found->second;
}

// An arrival of a warp at an mbarrier of OWNER.
void arriveFrom(Warp &warp, const Opcode &code, Block &owner, uint32_t address, int64_t count,
                int64_t bytes) {
  bool wide = scopeOf(code) == OfCluster, near = &owner == warp.block;
  const Clocks *known = code.has(Mod::Relaxed) ? nullptr : &warp.clocks;
  arriveAt(owner, address, count, bytes, near ? known : nullptr, wide ? known : nullptr);
}

void initialise(Warp &warp, const Instruction &i) {
  if (!warp.requireDefined(i, warp.operand(i, 1), "the count"))
    return;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    Block *owner;
    uint32_t address;
    Mbarrier *mbarrier = find(warp, i, lane, warp.operand(i, 0), owner, address, true);
    if (!mbarrier)
      return;
    uint64_t count = warp.read(warp.operand(i, 1), lane);
    if (count == 0 || count >= 1u << 20)
      return warp.block->grid->report(warp, i, lane,
                                      std::to_string(count) + " arrivals, expected 1 to 2^20 - 1");
    *mbarrier = Mbarrier();
    mbarrier->expected = uint32_t(count);
    mbarrier->pending = int64_t(count);
    mbarrier->initialiser = &warp;
    mbarrier->initialised = warp.clocks.own[warp.index];
    markBytes(warp.block->shadow.data() + address, 8, Byte::Written);
  }
}

void invalidate(Warp &warp, const Instruction &i) {
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    Block *owner;
    uint32_t address;
    if (!(warp.active >> lane & 1))
      continue;
    if (!find(warp, i, lane, warp.operand(i, 0), owner, address, false))
      return;
    warp.block->mbarriers.erase(address);
    markBytes(warp.block->shadow.data() + address, 8, Byte::Unwritten);
  }
}

// mbarrier.arrive{.expect_tx} state, [mbarrier]{, count}; mbarrier.expect_tx [mbarrier], bytes;
void arrive(Warp &warp, const Instruction &i) {
  const Opcode &code = i.opcode;
  bool arrives = code.hasAny({Mod::Arrive, Mod::ArriveDrop});
  unsigned at = arrives ? 1 : 0;
  bool counted = i.groups > at + 1;
  if (counted && !warp.requireDefined(i, warp.operand(i, at + 1), "the count"))
    return;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    Block *owner;
    uint32_t address;
    Mbarrier *mbarrier = find(warp, i, lane, warp.operand(i, at), owner, address, false);
    if (!mbarrier)
      return;
    int64_t count = counted ? int64_t(warp.read(warp.operand(i, at + 1), lane)) : 1;
    uint64_t phase = mbarrier->phase;
    int64_t arrivals = arrives ? count : 0;
    if (code.has(Mod::ExpectTx)) {
      mbarrier->bytes += count;
      arrivals = arrives ? 1 : 0;
    } else if (code.has(Mod::CompleteTx)) {
      arriveFrom(warp, code, *owner, address, 0, count);
    }
    if (arrivals > mbarrier->pending)
      return warp.block->grid->report(warp, i, lane,
                                      "more arrivals than the mbarrier expects (" +
                                          std::to_string(mbarrier->expected) + ")");
    if (code.has(Mod::ArriveDrop))
      --mbarrier->expected;
    if (arrivals)
      arriveFrom(warp, code, *owner, address, arrivals, 0);
    if (arrives)
      warp.write(warp.operand(i, 0), lane, phase);
  }
  if (arrives)
    warp.define(warp.operand(i, 0), 0, i.line);
  advance(warp);
}

// cp.async.mbarrier.arrive{.noinc} [mbarrier]: when the lane's copies so far are done.
void arriveAfterCopies(Warp &warp, const Instruction &i) {
  finishCopies(warp, i, 0, true);
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    Block *owner;
    uint32_t address;
    if (!(warp.active >> lane & 1))
      continue;
    Mbarrier *mbarrier = find(warp, i, lane, warp.operand(i, 0), owner, address, false);
    if (!mbarrier)
      return;
    if (!i.opcode.has(Mod::Noinc))
      ++mbarrier->pending;
    arriveAt(*warp.block, address, 1, 0, &warp.clocks, nullptr);
  }
  advance(warp);
}

// Whether the active lanes agree on an operand: then one of them can act for all.
bool agree(Warp &warp, const Operand &operand) {
  // The lower half of each value.
  const Word *words = warp.words(operand.slot);
  unsigned step = operand.bits == 64 ? 2 : 1;
  uint32_t first = words[step * firstLane(warp.active)], different = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane)
    different |= uint32_t(words[step * lane] != first) << lane;
  return !(different & warp.active);
}

// mbarrier.try_wait{.parity} p, [mbarrier], state or parity{, time};
void wait(Warp &warp, const Instruction &i) {
  Block &block = *warp.block;
  if (!warp.requireDefined(i, warp.operand(i, 2), "the phase"))
    return;
  uint32_t results = 0;
  bool together = agree(warp, warp.operand(i, 1)) && agree(warp, warp.operand(i, 2));
  for (unsigned lane = firstLane(warp.active); lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    Block *owner;
    uint32_t address;
    Mbarrier *mbarrier = find(warp, i, lane, warp.operand(i, 1), owner, address, false);
    if (!mbarrier)
      return;
    uint64_t phase = warp.read(warp.operand(i, 2), lane);
    auto complete = [&] {
      return i.opcode.has(Mod::Parity) ? (mbarrier->phase & 1) != (phase & 1)
                                       : mbarrier->phase > phase;
    };
    // Now is the last moment for the copies that this warp waits for.
    while (!complete() && deliver(block, address))
      ;
    if (complete()) {
      results |= together ? warp.active : 1u << lane;
      bool wide = scopeOf(i.opcode) == OfCluster;
      for (unsigned scope = 0; scope < (wide ? 2u : 1u); ++scope)
        if (mbarrier->completed[scope] && !i.opcode.has(Mod::Relaxed))
          warp.clocks.join(*mbarrier->completed[scope]);
      if (together)
        break;
      continue;
    }
    // try_wait may block, and it may give up: nearly always it does the former, which shows
    // deadlocks for what they are.
    if (i.opcode.has(Mod::TryWait) && !results && block.grid->random() % 8) {
      warp.state = Warp::AtMbarrier;
      warp.waitsFor = address;
      warp.waitLine = i.line;
      --warp.pc;
      return;
    }
    if (together)
      break;
  }
  warp.writePredicate(warp.operand(i, 0), results);
  if (results)
    meetLanes(warp); // those that wait, with those that arrived
  warp.yields = true;
}

void pendingCount(Warp &warp, const Instruction &i) { // of an opaque state, which has none here
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (warp.active >> lane & 1)
      warp.write(warp.operand(i, 0), lane, 0);
  warp.define(warp.operand(i, 0), ~0u, i.line);
}

} // namespace

void arriveAt(Block &block, uint32_t address, int64_t count, int64_t bytes, const Clocks *ofBlock,
              const Clocks *ofCluster) {
  Mbarrier &mbarrier = block.mbarriers[address];
  for (unsigned scope = 0; scope < 2; ++scope)
    if (const Clocks *known = scope ? ofCluster : ofBlock) {
      auto &gathered = mbarrier.gathered[scope];
      if (gathered)
        gathered->join(*known);
      else
        gathered = *known;
    }
  mbarrier.pending -= count;
  mbarrier.bytes -= bytes;
  completePhase(block, address, mbarrier);
}

Handler selectMbarrier(const Entry &entry, const Instruction &i) {
  const Opcode &code = i.opcode;
  if (code.op == Op::Cp)
    return code.has(Mod::Mbarrier) && i.groups == 1 ? arriveAfterCopies : nullptr;
  if (code.op != Op::Mbarrier)
    return nullptr;
  if (code.has(Mod::Init))
    return i.groups == 2 ? initialise : nullptr;
  if (code.has(Mod::Inval))
    return i.groups == 1 ? invalidate : nullptr;
  if (code.hasAny({Mod::TestWait, Mod::TryWait}))
    return i.groups >= 3 ? wait : nullptr;
  if (code.has(Mod::PendingCount))
    return i.groups == 2 ? pendingCount : nullptr;
  if (code.hasAny({Mod::Arrive, Mod::ArriveDrop, Mod::ExpectTx, Mod::CompleteTx})) {
    // Arrivals in the cluster give no state.
    bool far = code.has(Mod::SharedCluster) && code.hasAny({Mod::Arrive, Mod::ArriveDrop});
    bool fits = !far || entry.operands[i.first].kind == Operand::Sink;
    return i.groups >= 2 && fits ? arrive : nullptr;
  }
  return nullptr;
}

} // namespace moe::ptxsim
