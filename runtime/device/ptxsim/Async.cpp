// Asynchronous copies. Each is queued when it is issued and its destination is poisoned; it takes
// place at the last moment that the rules allow, when something waits for it. Whether its source is
// read at once or only then, the seed decides.
#include "runtime/device/ptxsim/Access.h"

#include <algorithm>
#include <cstring>

namespace moe::ptxsim {

namespace {

constexpr unsigned kChunk = 16; // bulk copies come in these

// cp.async.ca.shared.global [to], [from], bytes{, read};
void copyAsync(Warp &warp, const Instruction &i) {
  const Operand &to = warp.operand(i, 0), &from = warp.operand(i, 1);
  Grid &grid = *warp.block->grid;
  unsigned bytes = unsigned(warp.operand(i, 2).value);
  bool hinted = i.opcode.has(Mod::CacheHint);
  bool partial = i.groups > (hinted ? 4u : 3u);
  if (!warp.requireDefined(i, to, "the address") || !warp.requireDefined(i, from, "the address") ||
      (partial && !warp.requireDefined(i, warp.operand(i, 3), "the size")))
    return;
  std::array<uint64_t, kLanes> sources;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    uint64_t read = partial ? warp.read(warp.operand(i, 3), lane) & 0xffffffff : bytes;
    if (read > bytes)
      return grid.report(warp, i, lane, "copies more than " + std::to_string(bytes) + " bytes");
    Place target =
        reach(warp, i, lane, Space::Shared, addressOf(warp, to, lane), bytes, Touch::Write, false);
    if (!target.data)
      return;
    Warp::AsyncCopy copy{};
    copy.to = uint32_t(target.offset);
    copy.bytes = bytes;
    copy.read = uint32_t(read);
    copy.line = i.line;
    copy.lane = uint8_t(lane);
    copy.group = warp.committed[lane];
    copy.from = sources[lane] = addressOf(warp, from, lane);
    copy.captured = grid.coin();
    for (unsigned n = 0; n < read;) {
      unsigned piece = read - n >= bytes ? bytes : 1; // whole, or what zfill leaves byte by byte
      Place source = reach(warp, i, lane, Space::Global, copy.from + n, piece, Touch::Read, false);
      if (!source.data)
        return;
      std::memcpy(copy.data.data() + n, source.data, piece);
      std::memcpy(copy.written.data() + n, source.shadow, piece);
      n += piece;
    }
    markBytes(target.shadow, bytes, Byte::InFlight);
    warp.copies.push_back(copy);
  }
  countAccess(warp, Space::Global, sources.data(), warp.active, bytes, false);
}

void finish(Warp &warp, const Instruction &i, Warp::AsyncCopy &copy) {
  Block &block = *warp.block;
  if (!copy.captured && copy.read)
    if (Allocation *from = block.grid->memory.find(copy.from)) {
      std::memcpy(copy.data.data(), from->data.get() + (copy.from - from->base), copy.read);
      std::memcpy(copy.written.data(), from->shadow.get() + (copy.from - from->base), copy.read);
    }
  for (unsigned n = copy.read; n < copy.bytes; ++n) {
    copy.data[n] = 0;
    copy.written[n] = uint8_t(Byte::Written);
  }
  std::memcpy(block.shared.data() + copy.to, copy.data.data(), copy.bytes);
  for (unsigned n = 0; n < copy.bytes; ++n)
    block.shadow[copy.to + n] = uint8_t(copy.written[n] & 1 ? Byte::Written : Byte::Unwritten);
  raceShared(warp, i, copy.lane, copy.to, copy.bytes, true, false, warp.clocks);
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

// Calls EACH with the address of every chunk.
template <class F> bool eachChunk(uint64_t address, uint32_t bytes, F each) {
  for (uint32_t at = 0; at < bytes; at += kChunk)
    if (!each(address + at, at))
      return false;
  return true;
}

bool checkBulk(Warp &warp, const Instruction &i, unsigned lane, uint64_t bytes) {
  if (bytes % kChunk == 0 && bytes < kWindowBytes)
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
  for (unsigned n = 0; n < 4; ++n)
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
    if (!block.mbarriers.count(mbarrier))
      return block.grid->report(warp, i, lane,
                                "no mbarrier was initialised at shared " + hexText(mbarrier));
    bool fits = eachChunk(*to, uint32_t(bytes), [&](uint64_t at, uint32_t offset) {
      Place target = reach(warp, i, lane, Space::Shared, at, kChunk, Touch::Write, false);
      if (target.data)
        markBytes(target.shadow, kChunk, Byte::InFlight);
      return target.data &&
             reach(warp, i, lane, Space::Global, from + offset, kChunk, Touch::Read, false).data;
    });
    if (!fits)
      return;
    block.loads.push_back(
        {*to, uint32_t(bytes), mbarrier, i.line, from, &warp, uint8_t(lane), warp.clocks});
    block.grid->stats.globalSectors += bytes / 32;
    block.grid->stats.globalBytes += bytes;
  }
  ++warp.clocks.own[warp.index];
}

// What the asynchronous proxy reads must have been made visible to it.
bool checkProxy(Warp &warp, const Instruction &i, unsigned lane, uint32_t offset) {
  Block &block = *warp.block;
  if (!block.grid->options.races)
    return true;
  for (uint32_t at = offset; at < offset + kChunk; at += 4) {
    const RaceWord &word = block.races[at / 4];
    const Epoch &write = word.write;
    if (word.launch != block.grid->launchNumber || !write.clock || write.async)
      continue;
    auto covers = [&](const std::unique_ptr<Clocks> &fence) {
      return fence && fence->of(block.index, write.warp) >= write.clock;
    };
    if (covers(block.warps[write.warp]->proxied) || covers(warp.proxied))
      continue;
    block.grid->report(warp, i, lane,
                       "a bulk copy reads shared " + hexText(at) + ", which line " +
                           std::to_string(write.line) +
                           " wrote, without a fence.proxy.async in between");
    return false;
  }
  return true;
}

// cp.async.bulk.global.shared::cta.bulk_group [to], [from], bytes;
void bulkStore(Warp &warp, const Instruction &i) {
  Block &block = *warp.block;
  for (unsigned n = 0; n < 3; ++n)
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
    bool fits = eachChunk(from, uint32_t(bytes), [&](uint64_t at, uint32_t offset) {
      Place source = reach(warp, i, lane, Space::Shared, at, kChunk, Touch::Read, false);
      if (!source.data || !checkProxy(warp, i, lane, uint32_t(at)))
        return false;
      if (!allWritten(source.shadow, kChunk)) {
        if (std::count(source.shadow, source.shadow + kChunk, uint8_t(Byte::Unwritten)) &&
            block.grid->options.uninitialised) {
          block.grid->report(warp, i, lane,
                             "a bulk copy reads shared " + hexText(at) + ", which nothing wrote");
          return false;
        }
      }
      Place target = reach(warp, i, lane, Space::Global, to + offset, kChunk, Touch::Write, false);
      if (!target.data)
        return false;
      markBytes(target.shadow, kChunk, Byte::InFlight);
      return true;
    });
    if (!fits)
      return;
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

void finishCopies(Warp &warp, const Instruction &i, uint32_t keep, bool all) {
  std::erase_if(warp.copies, [&](Warp::AsyncCopy &copy) {
    if (!(warp.active >> copy.lane & 1) ||
        (!all && copy.group + uint64_t(keep) >= warp.committed[copy.lane]))
      return false;
    finish(warp, i, copy);
    return true;
  });
  warp.block->grid->progress();
}

void requireStoresDone(Warp &warp, const Instruction &i) {
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
