// ld and st in all state spaces and vector widths.
#include "runtime/device/ptxsim/Access.h"

#include <algorithm>
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

// Element N of each lane into a register as wide as it is.
template <class T> void loadElements(T *to, const Places &places, unsigned n, uint32_t active) {
  if (places.contiguous || active == ~0u) {
    for (unsigned lane = 0; lane < kLanes; ++lane)
      std::memcpy(&to[lane], places.data[lane] + n * sizeof(T), sizeof(T));
    return;
  }
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (active >> lane & 1)
      std::memcpy(&to[lane], places.data[lane] + n * sizeof(T), sizeof(T));
}

void load(Warp &warp, const Instruction &i) {
  const Opcode &code = i.opcode;
  const Operand &address = warp.operand(i, 1);
  const Operand *to = &warp.operand(i, 0);
  unsigned count = i.groupSize(0), each = bitsOf(code.type()) / 8;
  bool strong = isStrong(code);
  if (!warp.requireDefined(i, address, "the address") || !requireHint(warp, i))
    return;
  Places places;
  addressesOf(warp, address, places.address);
  if (!reachAll(warp, i, code.space(), places, each * count, Touch::Read, strong) ||
      !lanesInOrder(warp, i, places, each * count, nullptr))
    return;
  for (unsigned n = 0; n < count; ++n) {
    if (to[n].kind == Operand::Sink)
      continue;
    uint32_t unwritten = 0;
    for (unsigned lane = 0; lane < kLanes && !places.written; ++lane)
      if (warp.active >> lane & 1 && places.shadow[lane] &&
          !allWritten(places.shadow[lane] + n * each, each))
        unwritten |= 1u << lane;
    if (each == 4 && to[n].bits == 32) {
      loadElements(warp.words(to[n].slot), places, n, warp.active);
    } else if (each == 8 && to[n].bits == 64) {
      loadElements(warp.longs(to[n].slot), places, n, warp.active);
    } else {
      for (unsigned lane = 0; lane < kLanes; ++lane) {
        if (!(warp.active >> lane & 1))
          continue;
        uint64_t value = 0;
        std::memcpy(&value, places.data[lane] + n * each, each);
        warp.write(to[n], lane, extend(code.type(), value, to[n].bits));
      }
    }
    warp.define(to[n], unwritten, i.line);
  }
  if (strong) {
    for (unsigned lane = 0; lane < kLanes; ++lane)
      if (warp.active >> lane & 1)
        synchronise(warp, code,
                    {places.data[lane], places.shadow[lane], places.space, places.address[lane]},
                    true, false);
    meetLanes(warp); // perhaps another lane has told this one
  }
  countAccess(warp, places.space, places.address.data(), warp.active, each * count, false);
  warp.yields |= strong; // perhaps it polls
}

// Lanes of one instruction that write different values to the same bytes.
[[gnu::noinline]] bool requireDistinct(Warp &warp, const Instruction &i, const Places &places,
                                       const uint8_t *values, unsigned bytes) {
  if (!warp.block->grid->options.races || places.space == Space::Local)
    return true;
  std::array<std::pair<uint64_t, unsigned>, kLanes> order;
  unsigned count = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (warp.active >> lane & 1)
      order[count++] = {places.address[lane], lane};
  std::sort(order.begin(), order.begin() + count);
  for (unsigned n = 1; n < count; ++n) {
    auto [first, a] = order[n - 1];
    auto [second, b] = order[n];
    if (first == second && std::memcmp(values + a * bytes, values + b * bytes, bytes)) {
      warp.block->grid->report(warp, i, b,
                               "race: lanes " + std::to_string(a) + " and " + std::to_string(b) +
                                   " write different values to " + hexText(first));
      return false;
    }
  }
  return true;
}

void store(Warp &warp, const Instruction &i) {
  const Opcode &code = i.opcode;
  const Operand &address = warp.operand(i, 0);
  const Operand *from = &warp.operand(i, 1);
  unsigned count = i.groupSize(1), each = bitsOf(code.type()) / 8, bytes = each * count;
  bool strong = isStrong(code);
  if (!warp.requireDefined(i, address, "the address") || !requireHint(warp, i))
    return;
  for (unsigned n = 0; n < count; ++n)
    if (!warp.requireDefined(i, from[n], "the value"))
      return;
  Places places;
  addressesOf(warp, address, places.address);
  if (!reachAll(warp, i, code.space(), places, bytes, Touch::Write, strong))
    return;
  alignas(64) std::array<uint8_t, kLanes * 32> values;
  for (unsigned n = 0; n < count; ++n) {
    uint8_t *at = values.data() + n * each;
    if (each == 4 && from[n].bits == 32) {
      const Word *words = warp.words(from[n].slot);
      for (unsigned lane = 0; lane < kLanes; ++lane)
        std::memcpy(at + lane * bytes, &words[lane], 4);
    } else {
      for (unsigned lane = 0; lane < kLanes; ++lane) {
        uint64_t value = warp.read(from[n], lane);
        std::memcpy(at + lane * bytes, &value, each);
      }
    }
  }
  if (!lanesInOrder(warp, i, places, bytes, values.data()))
    return;
  bool changed = false;
  if (places.contiguous) {
    changed = std::memcmp(places.data[0], values.data(), bytes * kLanes) != 0;
    std::memcpy(places.data[0], values.data(), bytes * kLanes);
    if (places.shadow[0])
      markBytes(places.shadow[0], bytes * kLanes, Byte::Written);
  } else {
    if (!requireDistinct(warp, i, places, values.data(), bytes))
      return;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      if (!(warp.active >> lane & 1))
        continue;
      const uint8_t *value = values.data() + lane * bytes;
      changed |= std::memcmp(places.data[lane], value, bytes) != 0;
      std::memcpy(places.data[lane], value, bytes);
      if (places.shadow[lane])
        markBytes(places.shadow[lane], bytes, Byte::Written);
    }
  }
  if (changed)
    warp.block->grid->progress();
  if (strong)
    for (unsigned lane = 0; lane < kLanes; ++lane)
      if (warp.active >> lane & 1)
        synchronise(warp, code,
                    {places.data[lane], places.shadow[lane], places.space, places.address[lane]},
                    false, true);
  countAccess(warp, places.space, places.address.data(), warp.active, bytes, true);
}

// discard.global.L2 [a], 128: what is there need not be kept.
void discard(Warp &warp, const Instruction &i) {
  const Operand &address = warp.operand(i, 0);
  if (!warp.requireDefined(i, address, "the address"))
    return;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    Place place = reach(warp, i, lane, i.opcode.space(), addressOf(warp, address, lane), 128,
                        Touch::Write, false);
    if (!place.data)
      return;
    if (place.shadow)
      markBytes(place.shadow, 128, Byte::Unwritten);
  }
}

} // namespace

Handler selectLoadStore(const Entry &entry, const Instruction &i) {
  const Opcode &code = i.opcode;
  if (code.op == Op::Discard)
    return i.groups == 2 && entry.operands[i.first].kind == Operand::Address ? discard : nullptr;
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
