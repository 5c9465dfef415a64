// ld and st in all state spaces and vector widths.
#include "runtime/device/ptxsim/Access.h"

#include <cstring>

namespace moe::ptxsim {

namespace {

// Sign-extends what a signed load puts into a wider register.
uint64_t extend(Type type, uint64_t value, unsigned registerBits) {
  unsigned bits = bitsOf(type);
  if (!isSigned(type) || bits >= registerBits)
    return value;
  return uint64_t(int64_t(value << (64 - bits)) >> (64 - bits));
}

void countLanes(Warp &warp, Space space, uint32_t lanes, const uint64_t *addresses, unsigned bytes,
                bool writes) {
  if (lanes && (space == Space::Global || space == Space::Shared))
    countAccess(warp, space, addresses, lanes, bytes, writes);
}

void load(Warp &warp, const Instruction &i) {
  const Opcode &code = i.opcode;
  const Operand &address = warp.operand(i, 1);
  const Operand *to = &warp.operand(i, 0);
  unsigned count = i.groupSize(0), each = bitsOf(code.type()) / 8;
  bool strong = isStrong(code);
  if (!warp.requireDefined(i, address, "the address"))
    return;
  std::array<uint32_t, 8> unwritten{};
  std::array<uint64_t, kLanes> offsets;
  Space space = code.space();
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    Place place = reach(warp, i, lane, code.space(), addressOf(warp, address, lane), each * count,
                        Touch::Read, strong);
    if (!place.data)
      return;
    space = place.space;
    offsets[lane] = place.offset;
    for (unsigned n = 0; n < count; ++n) {
      uint64_t value = 0;
      std::memcpy(&value, place.data + n * each, each);
      if (to[n].kind != Operand::Sink)
        warp.write(to[n], lane, extend(code.type(), value, to[n].bits));
      if (place.shadow && !allWritten(place.shadow + n * each, each))
        unwritten[n] |= 1u << lane;
    }
    if (strong)
      synchronise(warp, code, place, true, false);
  }
  for (unsigned n = 0; n < count; ++n)
    warp.define(to[n], unwritten[n], i.line);
  countLanes(warp, space, warp.active, offsets.data(), each * count, false);
  warp.yields |= strong; // perhaps it polls
}

void store(Warp &warp, const Instruction &i) {
  const Opcode &code = i.opcode;
  const Operand &address = warp.operand(i, 0);
  const Operand *from = &warp.operand(i, 1);
  unsigned count = i.groupSize(1), each = bitsOf(code.type()) / 8;
  bool strong = isStrong(code);
  if (!warp.requireDefined(i, address, "the address"))
    return;
  for (unsigned n = 0; n < count; ++n)
    if (!warp.requireDefined(i, from[n], "the value"))
      return;
  std::array<uint64_t, kLanes> offsets;
  Space space = code.space();
  Grid &grid = *warp.block->grid;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    Place place = reach(warp, i, lane, code.space(), addressOf(warp, address, lane), each * count,
                        Touch::Write, strong);
    if (!place.data)
      return;
    space = place.space;
    offsets[lane] = place.offset;
    std::array<uint8_t, 64> bytes;
    for (unsigned n = 0; n < count; ++n) {
      uint64_t value = warp.read(from[n], lane);
      std::memcpy(bytes.data() + n * each, &value, each);
    }
    if (std::memcmp(place.data, bytes.data(), each * count)) {
      // Another lane of this very instruction may have been here first.
      if (space != Space::Local)
        for (unsigned other = 0; grid.options.races && other < lane; ++other)
          if (warp.active >> other & 1 && offsets[other] == place.offset)
            return grid.report(warp, i, lane,
                               "race: lanes " + std::to_string(other) + " and " +
                                   std::to_string(lane) + " write different values to " +
                                   hexText(place.offset));
      std::memcpy(place.data, bytes.data(), each * count);
      grid.progress();
    }
    if (place.shadow)
      markBytes(place.shadow, each * count, Byte::Written);
    if (strong)
      synchronise(warp, code, place, false, true);
  }
  countLanes(warp, space, warp.active, offsets.data(), each * count, true);
}

} // namespace

Handler selectLoadStore(const Entry &entry, const Instruction &i) {
  const Opcode &code = i.opcode;
  bool isLoad = code.op == Op::Ld;
  if ((!isLoad && code.op != Op::St) || i.groups < 2 || code.typeCount != 1)
    return nullptr;
  unsigned count = i.groupSize(isLoad ? 0 : 1), bits = bitsOf(code.type());
  unsigned where = i.starts[isLoad ? 1 : 0];
  if (count != code.vector || bits < 8 || bits > 64 || bits * count > 256 ||
      entry.operands[i.first + where].kind != Operand::Address)
    return nullptr;
  return isLoad ? load : store;
}

} // namespace moe::ptxsim
