// cp.async.bulk. A copy is queued when it is issued and its destination is poisoned; it takes place
// when something waits for it, and reads its source only then.
#include "runtime/device/ptxsim/Bulk.h"

#include "runtime/device/ptxsim/TensorBox.h"

#include <algorithm>
#include <cstring>

namespace moe::ptxsim {

bool requireOperands(Warp &warp, const Instruction &i) {
  for (unsigned n = 0; n < i.operands; ++n)
    if (!warp.requireDefined(i, warp.operand(i, n), "an operand"))
      return false;
  return true;
}

namespace {

// The mbarrier at a shared address must be of OWNER, and visible to the asynchronous proxy.
bool checkMbarrier(Warp &warp, const Instruction &i, unsigned lane, Block &owner, uint32_t offset) {
  Grid &grid = *owner.grid;
  auto signals = owner.mbarriers.find(offset);
  if (signals == owner.mbarriers.end()) {
    grid.report(warp, i, lane, "no mbarrier was initialised at shared " + hexText(offset));
    return false;
  }
  if (!grid.options.races ||
      fencedForProxy(warp, *signals->second.initialiser, signals->second.initialised))
    return true;
  grid.report(warp, i, lane,
              "the mbarrier at shared " + hexText(offset) +
                  " was initialised without a fence.mbarrier_init or fence.proxy.async in between");
  return false;
}

bool queueAt(Warp &warp, const Instruction &i, unsigned lane, Block &owner, uint32_t to,
             uint32_t mbarrier, uint32_t bytes, const BulkLoad &from) {
  Grid &grid = *owner.grid;
  if (!visit(warp, i, lane, owner) || !checkMbarrier(warp, i, lane, owner, mbarrier))
    return false;
  if (to + uint64_t(bytes) > owner.shared.size()) {
    grid.report(warp, i, lane,
                "copies " + std::to_string(bytes) + " bytes to shared " + hexText(to) +
                    ", past the end of shared memory");
    return false;
  }
  if (!checkProxy(warp, i, lane, owner, to, bytes, false))
    return false;
  uint64_t address = &owner == warp.block ? to : uint64_t(owner.rank + 1) << kRankShift | to;
  Place target = reachRange(warp, i, lane, Space::Shared, address, bytes, Touch::Write);
  if (!target.data)
    return false;
  markBytes(target.shadow, bytes, Byte::InFlight);
  BulkLoad load = from;
  load.to = to;
  load.bytes = bytes;
  load.mbarrier = mbarrier;
  load.warp = &warp;
  load.instruction = &i;
  load.lane = uint8_t(lane);
  load.segment = segmentOf(warp);
  load.clocks = warp.clocks;
  owner.loads.push_back(std::move(load));
  // Who waits already must look again: the copy takes place when somebody does.
  for (const auto &other : owner.warps)
    if (other->state == Warp::AtMbarrier && other->waitsFor == mbarrier)
      other->state = Warp::Ready;
  return true;
}

bool checkBytes(Warp &warp, const Instruction &i, unsigned lane, uint64_t bytes) {
  if (bytes && bytes % 16 == 0 && bytes < kWindowBytes)
    return true;
  warp.block->grid->report(warp, i, lane,
                           "a bulk copy of " + std::to_string(bytes) +
                               " bytes, which is not a multiple of 16");
  return false;
}

// The value of operand GROUP, a mask of ranks, if there is one.
std::optional<uint32_t> maskOf(Warp &warp, const Instruction &i, unsigned group, unsigned lane) {
  if (!i.opcode.has(Mod::Multicast))
    return std::nullopt;
  return uint32_t(warp.read(warp.operand(i, group), lane));
}

// cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [to], [from], bytes,
// [mbarrier]{, mask}; and the same from shared::cta, to another block.
void load(Warp &warp, const Instruction &i) {
  Block &block = *warp.block;
  if (!requireOperands(warp, i))
    return;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    uint64_t bytes = warp.read(warp.operand(i, 2), lane);
    uint64_t address = addressOf(warp, warp.operand(i, 1), lane);
    if (!checkBytes(warp, i, lane, bytes))
      return;
    BulkLoad from{};
    from.from = address;
    if (i.opcode.has(Mod::Global)) {
      if (!reachRange(warp, i, lane, Space::Global, address, uint32_t(bytes), Touch::Read).data)
        return;
      block.grid->stats.globalSectors += bytes / 32;
      block.grid->stats.globalBytes += bytes;
    } else {
      from.from = address & (kWindowBytes - 1);
      from.source = &block;
      if (!lendShared(warp, i, lane, uint32_t(from.from), uint32_t(bytes)))
        return;
    }
    if (!queueLoad(warp, i, lane, 0, 3, uint32_t(bytes), maskOf(warp, i, 4, lane), from))
      return;
  }
  advance(warp);
}

// cp.async.bulk.global.shared::cta.bulk_group [to], [from], bytes;
void store(Warp &warp, const Instruction &i) {
  Block &block = *warp.block;
  if (!requireOperands(warp, i))
    return;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    uint64_t bytes = warp.read(warp.operand(i, 2), lane);
    uint64_t to = addressOf(warp, warp.operand(i, 0), lane);
    uint32_t from = uint32_t(addressOf(warp, warp.operand(i, 1), lane));
    if (!checkBytes(warp, i, lane, bytes) || !lendShared(warp, i, lane, from, uint32_t(bytes)))
      return;
    Place target = reachRange(warp, i, lane, Space::Global, to, uint32_t(bytes), Touch::Write);
    if (!target.data)
      return;
    markBytes(target.shadow, bytes, Byte::InFlight);
    warp.stores.push_back(
        {from, uint32_t(bytes), i.line, uint8_t(lane), warp.committedBulk[lane], to, nullptr});
    block.grid->stats.globalSectors += bytes / 32;
    block.grid->stats.globalBytes += bytes;
  }
}

void commit(Warp &warp, const Instruction &) {
  for (unsigned lane = 0; lane < kLanes; ++lane)
    warp.committedBulk[lane] += warp.active >> lane & 1;
}

void wait(Warp &warp, const Instruction &i) {
  Block &block = *warp.block;
  uint32_t keep = uint32_t(warp.operand(i, 0).value);
  std::erase_if(warp.stores, [&](const Warp::BulkStore &store) {
    if (!(warp.active >> store.lane & 1) ||
        store.group + uint64_t(keep) >= warp.committedBulk[store.lane])
      return false;
    markBytes(block.shadow.data() + store.from, store.bytes, Byte::Written);
    const uint8_t *data = block.shared.data() + store.from;
    if (store.box) {
      store.box->write(block.grid->memory, block.shared.data());
    } else if (Allocation *to = block.grid->memory.find(store.to)) {
      std::memcpy(to->data.get() + (store.to - to->base), data, store.bytes);
      markBytes(to->shadow.get() + (store.to - to->base), store.bytes, Byte::Written);
    }
    block.grid->progress();
    return true;
  });
}

void nothing(Warp &, const Instruction &) {}

} // namespace

bool queueLoad(Warp &warp, const Instruction &i, unsigned lane, unsigned groupTo,
               unsigned groupMbarrier, uint32_t bytes, std::optional<uint32_t> mask,
               const BulkLoad &from) {
  Grid &grid = *warp.block->grid;
  uint64_t to = addressOf(warp, warp.operand(i, groupTo), lane) & (kWindowBytes - 1);
  uint64_t mbarrier = addressOf(warp, warp.operand(i, groupMbarrier), lane) & (kWindowBytes - 1);
  const auto &blocks = warp.block->cluster->blocks;
  if (mask) {
    uint64_t offset = (uint64_t(1) << kRankShift) - 1;
    if (!*mask || *mask >> blocks.size()) {
      grid.report(warp, i, lane,
                  "a copy to the blocks of mask " + hexText(*mask) + " in a cluster of " +
                      std::to_string(blocks.size()));
      return false;
    }
    for (Block *owner : blocks)
      if (*mask >> owner->rank & 1 && !queueAt(warp, i, lane, *owner, uint32_t(to & offset),
                                               uint32_t(mbarrier & offset), bytes, from))
        return false;
    return true;
  }
  Block *owner = ownerOf(warp, i, to), *signals = ownerOf(warp, i, mbarrier);
  if (!owner || owner != signals) {
    grid.report(warp, i, lane,
                owner && signals ? "the copy and its mbarrier are in different blocks"
                                 : "copies to a block that the cluster does not have");
    return false;
  }
  return queueAt(warp, i, lane, *owner, uint32_t(to), uint32_t(mbarrier), bytes, from);
}

bool lendShared(Warp &warp, const Instruction &i, unsigned lane, uint32_t from, uint32_t bytes) {
  Block &block = *warp.block;
  if (from >> kRankShift) {
    block.grid->report(warp, i, lane,
                       "copies from " + hexText(from) + ", which is of another block");
    return false;
  }
  Place source = reachRange(warp, i, lane, Space::Shared, from, bytes, Touch::Read);
  if (!source.data || !checkProxy(warp, i, lane, block, from, bytes, true))
    return false;
  if (block.grid->options.uninitialised && !allWritten(source.shadow, bytes)) {
    block.grid->report(warp, i, lane,
                       "a bulk copy reads shared memory from " + hexText(from) +
                           " on, not all of which was written");
    return false;
  }
  markBytes(block.shadow.data() + from, bytes, Byte::Lent);
  return true;
}

void readSource(const Grid &grid, const BulkLoad &load, uint8_t *data, uint8_t *written) {
  if (load.box)
    return load.box->read(grid.memory, load.to, data, written);
  if (load.source) {
    uint8_t *shadow = load.source->shadow.data() + load.from;
    std::memcpy(data, load.source->shared.data() + load.from, load.bytes);
    markBytes(shadow, load.bytes, Byte::Written); // it was lent
    return markBytes(written, load.bytes, Byte::Written);
  }
  if (Allocation *from = grid.memory.find(load.from)) {
    uint64_t offset = load.from - from->base;
    std::memcpy(data, from->data.get() + offset, load.bytes);
    std::memcpy(written, from->shadow.get() + offset, load.bytes);
  }
}

bool fencedForProxy(const Warp &warp, const Warp &writer, uint32_t clock) {
  auto covers = [&](const std::unique_ptr<Clocks> &fence) {
    return fence && fence->of(writer.block->index, writer.index) >= clock;
  };
  return covers(writer.proxied) || covers(warp.proxied);
}

// What the asynchronous proxy touches must have been made visible to it.
bool checkProxy(Warp &warp, const Instruction &i, unsigned lane, Block &block, uint32_t offset,
                uint32_t bytes, bool reads) {
  if (!block.grid->options.races)
    return true;
  Access last{};
  for (uint32_t at = offset; at < offset + bytes; at += 4) {
    Access write = block.writers[at / 4];
    if (write.bits == last.bits)
      continue;
    last = write;
    if (write.segment() < block.firstSegment || write.async())
      continue;
    const Segments::Segment &segment = block.grid->segments.at(write.segment());
    const Block *writer = block.cluster->find(segment.block);
    if (!writer || fencedForProxy(warp, *writer->warps[segment.warp], segment.clock))
      continue;
    block.grid->report(warp, i, lane,
                       std::string("an asynchronous ") + (reads ? "read" : "write") +
                           " of shared " + hexText(at) + ", which line " +
                           std::to_string(block.grid->entry.code[write.instruction()].line) +
                           " wrote, without a fence.proxy.async in between");
    return false;
  }
  return true;
}

void requireStoresDone(Warp &warp, const Instruction &i) {
  if (!warp.products.empty() && warp.active == warp.alive)
    return warp.block->grid->report(warp, i, firstLane(warp.active),
                                    "exits while the product of line " +
                                        std::to_string(warp.products[0].instruction->line) +
                                        " is in flight: a wait is missing");
  for (const Warp::BulkStore &store : warp.stores)
    if (warp.active >> store.lane & 1)
      return warp.block->grid->report(warp, i, store.lane,
                                      "exits while the bulk copy of line " +
                                          std::to_string(store.line) +
                                          " may still read its shared memory: a wait is missing");
}

Handler selectBulk(const Entry &entry, const Instruction &i) {
  const Opcode &code = i.opcode;
  if (code.op != Op::Cp || !code.has(Mod::Bulk) || code.has(Mod::Tensor))
    return nullptr;
  if (code.has(Mod::CommitGroup))
    return commit;
  if (code.has(Mod::WaitGroup))
    return i.operands == 1 && entry.operands[i.first].kind == Operand::Immediate ? wait : nullptr;
  if (code.has(Mod::Prefetch))
    return nothing;
  if (code.has(Mod::BulkGroup))
    return i.groups >= 3 ? store : nullptr;
  if (!code.has(Mod::CompleteBytes) || i.groups < (code.has(Mod::Multicast) ? 5 : 4))
    return nullptr;
  // From global memory, or to another block.
  return code.has(Mod::Global) || (code.hasAny({Mod::SharedCta}) && code.has(Mod::SharedCluster))
             ? load
             : nullptr;
}

} // namespace moe::ptxsim
