// cp.async. A copy is queued when it is issued and its destination is poisoned; it takes place at
// the last moment that the rules allow, when something waits for it. Whether its source is read at
// once or only then, the seed decides.
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
  warp.wroteShared = true;
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
    for (uint32_t at = 0; at < bytes && !block.laneWrites.empty(); at += 4)
      block.laneWrites[(copy.to[lane] + at) / 4] =
          warp.laneEpoch << 10 | uint32_t(warp.index) << 5 | lane;
    if (!contiguous)
      raceShared(warp, i, lane, block, copy.to[lane], bytes, true, false);
  }
  if (contiguous)
    raceShared(warp, i, 0, block, copy.to[0], bytes * kLanes, true, false);
}

void commit(Warp &warp, const Instruction &i) {
  for (unsigned lane = 0; lane < kLanes; ++lane)
    warp.committed[lane] += warp.active >> lane & 1;
}

void wait(Warp &warp, const Instruction &i) {
  bool all = i.opcode.has(Mod::WaitAll);
  finishCopies(warp, i, all ? 0 : uint32_t(warp.operand(i, 0).value), all);
}

// A policy is a token that only hints take.
void createPolicy(Warp &warp, const Instruction &i) {
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (warp.active >> lane & 1)
      warp.write(warp.operand(i, 0), lane, 0);
  warp.define(warp.operand(i, 0), 0, i.line);
}

} // namespace

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

Handler selectAsync(const Entry &entry, const Instruction &i) {
  const Opcode &code = i.opcode;
  if (code.op == Op::Createpolicy)
    return i.groups >= 1 ? createPolicy : nullptr;
  if (code.op != Op::Cp || !code.has(Mod::Async) || code.has(Mod::Bulk))
    return nullptr;
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
