// Asynchronous copies. Each is queued when it is issued and its destination is poisoned; it takes
// place at the last moment that the rules allow, when something waits for it. Whether its source is
// read at once or only then, the seed decides.
#include "runtime/device/ptxsim/Access.h"

#include <algorithm>
#include <cstring>

namespace moe::ptxsim {

namespace {

// cp.async.ca.shared.global [to], [from], bytes{, read};
void copyAsync(Warp &warp, const Instruction &i) {
  const Operand &to = warp.operand(i, 0), &from = warp.operand(i, 1);
  Grid &grid = *warp.block->grid;
  unsigned bytes = unsigned(warp.operand(i, 2).value);
  bool hinted = i.opcode.has(Mod::CacheHint);
  bool partial = i.groups > (hinted ? 4u : 3u);
  if (!warp.requireDefined(i, to, "the address") || !warp.requireDefined(i, from, "the address") ||
      (partial && !warp.requireDefined(i, warp.operand(i, 3), "the size")) || !requireHint(warp, i))
    return;
  std::unique_ptr<Warp::AsyncCopy> copy;
  if (warp.spareCopies.empty()) {
    copy = std::make_unique<Warp::AsyncCopy>();
  } else {
    copy = std::move(warp.spareCopies.back());
    warp.spareCopies.pop_back();
  }
  copy->lanes = warp.active;
  copy->bytes = bytes;
  copy->instruction = &i;
  copy->captured = grid.coin();
  copy->group = warp.committed;
  Places targets, sources;
  addressesOf(warp, to, targets.address);
  addressesOf(warp, from, sources.address);
  copy->from = sources.address;
  countAccess(warp, Space::Global, sources.address.data(), warp.active, bytes, false);
  if (!reachAll(warp, i, Space::Shared, targets, bytes, Touch::Write, false))
    return;
  copy->read.fill(uint8_t(bytes));
  if (!partial) {
    if (!reachAll(warp, i, Space::Global, sources, bytes, Touch::Read, false))
      return;
  } else {
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      if (!(warp.active >> lane & 1))
        continue;
      uint64_t read = warp.read(warp.operand(i, 3), lane) & 0xffffffff;
      if (read > bytes)
        return grid.report(warp, i, lane, "copies more than " + std::to_string(bytes) + " bytes");
      copy->read[lane] = uint8_t(read);
      for (unsigned n = 0; n < read;) {
        unsigned piece = read == bytes ? bytes : 1; // whole, or what zfill leaves byte by byte
        Place source =
            reach(warp, i, lane, Space::Global, copy->from[lane] + n, piece, Touch::Read, false);
        if (!source.data)
          return;
        if (n == 0) {
          sources.data[lane] = source.data;
          sources.shadow[lane] = source.shadow;
        }
        n += piece;
      }
    }
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    copy->to[lane] = uint32_t(targets.address[lane]);
    if (unsigned read = copy->read[lane]) {
      std::memcpy(&copy->data[lane * 16], sources.data[lane], read);
      std::memcpy(&copy->written[lane * 16], sources.shadow[lane], read);
    }
    markBytes(targets.shadow[lane], bytes, Byte::InFlight);
  }
  warp.copies.push_back(std::move(copy));
}

void finish(Warp &warp, Warp::AsyncCopy &copy, uint32_t lanes) {
  Block &block = *warp.block;
  const Instruction &i = *copy.instruction;
  uint32_t bytes = copy.bytes;
  auto &data = copy.data;
  auto &written = copy.written;
  bool contiguous = lanes == ~0u;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(lanes >> lane & 1))
      continue;
    contiguous &= copy.to[lane] == copy.to[0] + lane * bytes;
    unsigned read = copy.read[lane];
    if (!copy.captured && read)
      if (Allocation *from = findAllocation(warp, copy.from[lane], read)) {
        std::memcpy(&data[lane * 16], from->data.get() + (copy.from[lane] - from->base), read);
        std::memcpy(&written[lane * 16], from->shadow.get() + (copy.from[lane] - from->base), read);
      }
    std::memset(&data[lane * 16 + read], 0, bytes - read);
    markBytes(&written[lane * 16 + read], bytes - read, Byte::Written);
    std::memcpy(block.shared.data() + copy.to[lane], &data[lane * 16], bytes);
    copyWritten(block.shadow.data() + copy.to[lane], &written[lane * 16], bytes);
    if (!contiguous)
      raceShared(warp, i, lane, copy.to[lane], bytes, true, false);
  }
  if (contiguous)
    raceShared(warp, i, 0, copy.to[0], bytes * kLanes, true, false);
}

void commit(Warp &warp, const Instruction &i) {
  auto &groups = i.opcode.has(Mod::Bulk) ? warp.committedBulk : warp.committed;
  for (unsigned lane = 0; lane < kLanes; ++lane)
    groups[lane] += warp.active >> lane & 1;
}

void wait(Warp &warp, const Instruction &i) {
  bool all = i.opcode.has(Mod::WaitAll);
  finishCopies(warp, i, all ? 0 : uint32_t(warp.operand(i, 0).value), all);
}

bool checkBulk(Warp &warp, const Instruction &i, unsigned lane, uint64_t bytes) {
  if (bytes && bytes % 16 == 0 && bytes < kWindowBytes)
    return true;
  warp.block->grid->report(warp, i, lane,
                           "a bulk copy of " + std::to_string(bytes) +
                               " bytes, which is not a multiple of 16");
  return false;
}

// cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [to], [from], bytes,
// [mbarrier];
void bulkLoad(Warp &warp, const Instruction &i) {
  Block &block = *warp.block;
  for (unsigned n = 0; n < i.operands; ++n)
    if (!warp.requireDefined(i, warp.operand(i, n), "an operand"))
      return;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    uint64_t bytes = warp.read(warp.operand(i, 2), lane);
    auto to =
        sharedOffset(Space::Shared, addressOf(warp, warp.operand(i, 0), lane) & (kWindowBytes - 1));
    uint64_t from = addressOf(warp, warp.operand(i, 1), lane);
    uint32_t mbarrier = uint32_t(addressOf(warp, warp.operand(i, 3), lane) & (kWindowBytes - 1));
    if (!checkBulk(warp, i, lane, bytes))
      return;
    auto signals = block.mbarriers.find(mbarrier);
    if (signals == block.mbarriers.end())
      return block.grid->report(warp, i, lane,
                                "no mbarrier was initialised at shared " + hexText(mbarrier));
    if (block.grid->options.races &&
        !fencedForProxy(warp, signals->second.initialiser, signals->second.initialised))
      return block.grid->report(warp, i, lane,
                                "the mbarrier at shared " + hexText(mbarrier) +
                                    " was initialised without a fence.mbarrier_init or "
                                    "fence.proxy.async in between");
    if (*to + bytes <= block.shared.size() &&
        !checkProxy(warp, i, lane, *to, uint32_t(bytes), false))
      return;
    Place target = reachRange(warp, i, lane, Space::Shared, *to, uint32_t(bytes), Touch::Write);
    if (!target.data ||
        !reachRange(warp, i, lane, Space::Global, from, uint32_t(bytes), Touch::Read).data)
      return;
    markBytes(target.shadow, bytes, Byte::InFlight);
    block.loads.push_back({*to, uint32_t(bytes), mbarrier, from, &warp, &i, uint8_t(lane),
                           segmentOf(warp), warp.clocks});
    // Who waits already must look again: the copy takes place when somebody does.
    for (const auto &other : block.warps)
      if (other->state == Warp::AtMbarrier && other->waitsFor == mbarrier)
        other->state = Warp::Ready;
    block.grid->stats.globalSectors += bytes / 32;
    block.grid->stats.globalBytes += bytes;
  }
  advance(warp);
}

// cp.async.bulk.global.shared::cta.bulk_group [to], [from], bytes;
void bulkStore(Warp &warp, const Instruction &i) {
  Block &block = *warp.block;
  for (unsigned n = 0; n < i.operands; ++n)
    if (!warp.requireDefined(i, warp.operand(i, n), "an operand"))
      return;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    uint64_t bytes = warp.read(warp.operand(i, 2), lane);
    uint64_t to = addressOf(warp, warp.operand(i, 0), lane);
    uint32_t from = uint32_t(addressOf(warp, warp.operand(i, 1), lane));
    if (!checkBulk(warp, i, lane, bytes))
      return;
    Place source = reachRange(warp, i, lane, Space::Shared, from, uint32_t(bytes), Touch::Read);
    if (!source.data || !checkProxy(warp, i, lane, from, uint32_t(bytes), true))
      return;
    if (block.grid->options.uninitialised && !allWritten(source.shadow, bytes))
      return block.grid->report(warp, i, lane,
                                "a bulk copy reads shared memory from " + hexText(from) +
                                    " on, not all of which was written");
    Place target = reachRange(warp, i, lane, Space::Global, to, uint32_t(bytes), Touch::Write);
    if (!target.data)
      return;
    markBytes(target.shadow, bytes, Byte::InFlight);
    markBytes(block.shadow.data() + from, unsigned(bytes), Byte::Lent);
    warp.stores.push_back(
        {from, uint32_t(bytes), i.line, uint8_t(lane), warp.committedBulk[lane], to});
    block.grid->stats.globalSectors += bytes / 32;
    block.grid->stats.globalBytes += bytes;
  }
}

void bulkWait(Warp &warp, const Instruction &i) {
  Block &block = *warp.block;
  uint32_t keep = uint32_t(warp.operand(i, 0).value);
  std::erase_if(warp.stores, [&](const Warp::BulkStore &store) {
    if (!(warp.active >> store.lane & 1) ||
        store.group + uint64_t(keep) >= warp.committedBulk[store.lane])
      return false;
    markBytes(block.shadow.data() + store.from, store.bytes, Byte::Written);
    if (Allocation *to = block.grid->memory.find(store.to)) {
      std::memcpy(to->data.get() + (store.to - to->base), block.shared.data() + store.from,
                  store.bytes);
      markBytes(to->shadow.get() + (store.to - to->base), store.bytes, Byte::Written);
    }
    block.grid->progress();
    return true;
  });
}

void nothing(Warp &, const Instruction &) {}

// A policy is a token that only hints take.
void createPolicy(Warp &warp, const Instruction &i) {
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (warp.active >> lane & 1)
      warp.write(warp.operand(i, 0), lane, 0);
  warp.define(warp.operand(i, 0), 0, i.line);
}

Handler selectBulk(const Entry &entry, const Instruction &i) {
  const Opcode &code = i.opcode;
  if (code.hasAny({Mod::Tensor, Mod::Multicast}))
    return nullptr;
  if (code.has(Mod::CommitGroup))
    return commit;
  if (code.has(Mod::WaitGroup))
    return i.operands == 1 && entry.operands[i.first].kind == Operand::Immediate ? bulkWait
                                                                                 : nullptr;
  if (code.has(Mod::Prefetch))
    return nothing;
  if (code.has(Mod::BulkGroup))
    return i.groups >= 3 ? bulkStore : nullptr;
  return code.has(Mod::CompleteBytes) && code.has(Mod::Global) && i.groups >= 4 ? bulkLoad
                                                                                : nullptr;
}

} // namespace

bool fencedForProxy(const Warp &warp, uint32_t writer, uint32_t clock) {
  const Block &block = *warp.block;
  auto covers = [&](const std::unique_ptr<Clocks> &fence) {
    return fence && fence->of(block.index, writer) >= clock;
  };
  return covers(block.warps[writer]->proxied) || covers(warp.proxied);
}

// What the asynchronous proxy touches must have been made visible to it.
bool checkProxy(Warp &warp, const Instruction &i, unsigned lane, uint32_t offset, uint32_t bytes,
                bool reads) {
  Block &block = *warp.block;
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
    if (fencedForProxy(warp, segment.warp, segment.clock))
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

void finishCopies(Warp &warp, const Instruction &i, uint32_t keep, bool all) {
  std::erase_if(warp.copies, [&](std::unique_ptr<Warp::AsyncCopy> &copy) {
    uint32_t lanes = 0;
    for (unsigned lane = 0; lane < kLanes; ++lane)
      lanes |= uint32_t(all || copy->group[lane] + uint64_t(keep) < warp.committed[lane]) << lane;
    lanes &= copy->lanes & warp.active;
    if (lanes)
      finish(warp, *copy, lanes);
    copy->lanes &= ~lanes;
    if (copy->lanes)
      return false;
    warp.spareCopies.push_back(std::move(copy));
    return true;
  });
  warp.block->grid->progress();
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

Handler selectAsync(const Entry &entry, const Instruction &i) {
  const Opcode &code = i.opcode;
  if (code.op == Op::Createpolicy)
    return i.groups >= 1 ? createPolicy : nullptr;
  if (code.op != Op::Cp || !code.has(Mod::Async))
    return nullptr;
  if (code.has(Mod::Bulk))
    return selectBulk(entry, i);
  if (code.has(Mod::CommitGroup))
    return commit;
  if (code.has(Mod::WaitAll))
    return wait;
  auto isNumber = [&](unsigned at) {
    return entry.operands[i.first + at].kind == Operand::Immediate;
  };
  if (code.has(Mod::WaitGroup))
    return i.operands == 1 && isNumber(0) ? wait : nullptr;
  if (i.operands < 3 || !isNumber(2) || !code.has(Mod::Shared))
    return nullptr;
  int64_t bytes = entry.operands[i.first + 2].value;
  return bytes == 4 || bytes == 8 || bytes == 16 ? copyAsync : nullptr;
}

} // namespace moe::ptxsim
