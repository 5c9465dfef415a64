// What the lanes of a warp do together: shuffles, votes, reductions, elections.
#include "runtime/device/ptxsim/Warp.h"

#include <algorithm>

namespace moe::ptxsim {

namespace {

// Whether the active lanes are just those that the mask names, as all of them must be here.
bool requireMembers(Warp &warp, const Instruction &i, const Operand &mask) {
  if (!warp.requireDefined(i, mask, "the member mask"))
    return false;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    uint32_t members = uint32_t(warp.read(mask, lane));
    if (members != warp.active) {
      warp.block->grid->report(warp, i, lane,
                               "the member mask is " + hexText(members) + ", but lanes " +
                                   hexText(warp.active) + " execute this");
      return false;
    }
  }
  meetLanes(warp);
  return true;
}

// The lane that each lane reads, and whether it lies in its segment.
std::pair<unsigned, bool> shuffleSource(const Opcode &code, unsigned lane, uint32_t b, uint32_t c) {
  uint32_t segment = c >> 8 & 31, clamp = c & 31;
  b &= 31;
  uint32_t most = (lane & segment) | (clamp & ~segment), least = lane & segment;
  int source = int(lane);
  bool inside;
  if (code.has(Mod::Up)) {
    source -= int(b);
    inside = source >= int(most);
  } else {
    source = code.has(Mod::Down)   ? int(lane + b)
             : code.has(Mod::Bfly) ? int(lane ^ b)
                                   : int(least | (b & ~segment));
    inside = source <= int(most);
  }
  return {inside ? unsigned(source) & 31 : lane, inside};
}

void shuffle(Warp &warp, const Instruction &i) {
  if (!requireMembers(warp, i, warp.operand(i, 4)))
    return;
  const Operand &to = warp.operand(i, 0), &from = warp.operand(i, 1);
  std::array<uint32_t, kLanes> values;
  uint32_t bad = 0, inside = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    auto [source, within] =
        shuffleSource(i.opcode, lane, uint32_t(warp.read(warp.operand(i, 2), lane)),
                      uint32_t(warp.read(warp.operand(i, 3), lane)));
    values[lane] = uint32_t(warp.read(from, source));
    bool known = warp.active >> source & 1 && !(warp.undefinedLanes(from) >> source & 1);
    bad |= uint32_t(!known) << lane;
    inside |= uint32_t(within) << lane;
  }
  bad |= warp.undefinedLanes(warp.operand(i, 2)) | warp.undefinedLanes(warp.operand(i, 3));
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (warp.active >> lane & 1)
      warp.write(to, lane, values[lane]);
  warp.define(to, bad, i.line);
  if (i.groupSize(0) > 1) {
    warp.writePredicate(warp.operand(i, 0, 1), inside);
    warp.define(warp.operand(i, 0, 1), 0, i.line);
  }
}

void vote(Warp &warp, const Instruction &i) {
  const Opcode &code = i.opcode;
  const Operand &to = warp.operand(i, 0), &from = warp.operand(i, 1);
  if (!requireMembers(warp, i, warp.operand(i, 2)))
    return;
  uint32_t holds = (warp.predicates[from.slot] ^ (from.negated ? ~0u : 0)) & warp.active;
  uint32_t bad = warp.undefinedLanes(from) & warp.active ? ~0u : 0;
  if (code.has(Mod::Ballot)) {
    for (unsigned lane = 0; lane < kLanes; ++lane)
      if (warp.active >> lane & 1)
        warp.write(to, lane, holds);
  } else {
    bool all = holds == warp.active;
    bool result = code.has(Mod::All) ? all : code.has(Mod::Any) ? holds != 0 : all || !holds;
    warp.writePredicate(to, result ? ~0u : 0);
  }
  warp.define(to, bad, warp.originOf(from));
}

void match(Warp &warp, const Instruction &i) {
  const Operand &to = warp.operand(i, 0), &from = warp.operand(i, 1);
  if (!requireMembers(warp, i, warp.operand(i, 2)) || !warp.requireDefined(i, from, "the value"))
    return;
  uint32_t same = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    uint32_t equal = 0;
    for (unsigned other = 0; other < kLanes; ++other)
      equal |= uint32_t(warp.active >> other & 1 && warp.read(from, other) == warp.read(from, lane))
               << other;
    bool all = equal == warp.active;
    same |= uint32_t(all) << lane;
    if (warp.active >> lane & 1)
      warp.write(to, lane, i.opcode.has(Mod::All) && !all ? 0 : equal);
  }
  warp.define(to, 0, i.line);
  if (i.groupSize(0) > 1) {
    warp.writePredicate(warp.operand(i, 0, 1), same);
    warp.define(warp.operand(i, 0, 1), 0, i.line);
  }
}

void reduce(Warp &warp, const Instruction &i) {
  const Opcode &code = i.opcode;
  const Operand &to = warp.operand(i, 0), &from = warp.operand(i, 1);
  if (!requireMembers(warp, i, warp.operand(i, 2)))
    return;
  bool first = true;
  uint32_t result = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    uint32_t value = uint32_t(warp.read(from, lane));
    bool less = isSigned(code.type()) ? int32_t(value) < int32_t(result) : value < result;
    if (first)
      result = value;
    else if (code.has(Mod::Add))
      result += value;
    else if (code.has(Mod::And))
      result &= value;
    else if (code.has(Mod::Or))
      result |= value;
    else if (code.has(Mod::Xor))
      result ^= value;
    else if (less == code.has(Mod::Min))
      result = value;
    first = false;
  }
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (warp.active >> lane & 1)
      warp.write(to, lane, result);
  warp.define(to, warp.undefinedLanes(from) & warp.active ? ~0u : 0, warp.originOf(from));
}

void activeMask(Warp &warp, const Instruction &i) {
  const Operand &to = warp.operand(i, 0);
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (warp.active >> lane & 1)
      warp.write(to, lane, warp.active);
  warp.define(to, 0, i.line);
}

void elect(Warp &warp, const Instruction &i) {
  if (!requireMembers(warp, i, warp.operand(i, 1)))
    return;
  unsigned leader = firstLane(warp.active);
  const Operand &to = warp.operand(i, 0);
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (warp.active >> lane & 1)
      warp.write(to, lane, leader);
  warp.define(to, 0, i.line);
  warp.writePredicate(warp.operand(i, 0, 1), 1u << leader);
}

void warpBarrier(Warp &warp, const Instruction &i) { requireMembers(warp, i, warp.operand(i, 0)); }

} // namespace

Handler selectCollective(const Entry &, const Instruction &i) {
  const Opcode &code = i.opcode;
  bool sync = code.has(Mod::Sync);
  switch (code.op) {
  case Op::Shfl:
    return sync && i.groups == 5 ? shuffle : nullptr;
  case Op::Vote:
    return sync && i.groups == 3 ? vote : nullptr;
  case Op::Match:
    return sync && i.groups == 3 ? match : nullptr;
  case Op::Redux:
    return i.groups == 3 && code.type() != Type::F32 ? reduce : nullptr;
  case Op::Activemask:
    return i.groups == 1 ? activeMask : nullptr;
  case Op::Elect:
    return i.groups == 2 && i.groupSize(0) == 2 ? elect : nullptr;
  case Op::Bar:
    return code.has(Mod::Warp) && i.groups == 1 ? warpBarrier : nullptr;
  default:
    return nullptr;
  }
}

} // namespace moe::ptxsim
