// atom, red and fences.
#include "runtime/device/ptxsim/Access.h"
#include "runtime/device/ptxsim/Numbers.h"

#include <algorithm>
#include <cstring>

namespace moe::ptxsim {

namespace {

template <class T> T combineNumbers(const Opcode &code, T old, T value) {
  return code.has(Mod::Add)   ? old + value
         : code.has(Mod::Min) ? std::min(old, value)
                              : std::max(old, value);
}

template <class N> uint32_t addPair(uint32_t a, uint32_t b) {
  auto half = [](uint32_t x, uint32_t y) {
    return N::from(N{uint16_t(x)}.value() + N{uint16_t(y)}.value()).bits;
  };
  return uint32_t(half(a >> 16, b >> 16)) << 16 | half(a, b);
}

uint64_t combineWords(const Opcode &code, uint64_t old, uint64_t value) {
  bool wide = bitsOf(code.type()) == 64;
  if (code.has(Mod::And))
    return old & value;
  if (code.has(Mod::Or))
    return old | value;
  if (code.has(Mod::Xor))
    return old ^ value;
  if (code.has(Mod::Exch))
    return value;
  if (code.has(Mod::Inc))
    return old >= value ? 0 : old + 1;
  if (code.has(Mod::Dec))
    return old == 0 || old > value ? value : old - 1;
  if (code.has(Mod::Add))
    return old + value;
  bool less = !isSigned(code.type()) ? value < old
              : wide                 ? int64_t(value) < int64_t(old)
                                     : int32_t(value) < int32_t(old);
  return less == code.has(Mod::Min) ? value : old;
}

uint64_t combine(const Opcode &code, uint64_t old, uint64_t value) {
  switch (code.type()) {
  case Type::F32:
    return std::bit_cast<uint32_t>(combineNumbers(code, std::bit_cast<float>(uint32_t(old)),
                                                  std::bit_cast<float>(uint32_t(value))));
  case Type::F64:
    return std::bit_cast<uint64_t>(
        combineNumbers(code, std::bit_cast<double>(old), std::bit_cast<double>(value)));
  case Type::F16x2:
    return addPair<Half>(uint32_t(old), uint32_t(value));
  case Type::BF16x2:
    return addPair<Brain>(uint32_t(old), uint32_t(value));
  default:
    return combineWords(code, old, value);
  }
}

// atom d, [a], b{, c}; red [a], b;
void atomic(Warp &warp, const Instruction &i) {
  const Opcode &code = i.opcode;
  Grid &grid = *warp.block->grid;
  bool returns = code.op == Op::Atom;
  unsigned at = returns ? 1 : 0, bytes = bitsOf(code.type()) / 8;
  const Operand &address = warp.operand(i, at), &value = warp.operand(i, at + 1);
  bool swaps = code.has(Mod::Cas);
  if (!warp.requireDefined(i, address, "the address") ||
      !warp.requireDefined(i, value, "the value") ||
      (swaps && !warp.requireDefined(i, warp.operand(i, at + 2), "the value")))
    return;
  uint32_t unwritten = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    Place place = reach(warp, i, lane, code.space(), addressOf(warp, address, lane), bytes,
                        Touch::Atomic, true);
    if (!place.data)
      return;
    uint64_t old = 0, operand = warp.read(value, lane);
    std::memcpy(&old, place.data, bytes);
    if (place.shadow && !allWritten(place.shadow, bytes) && !code.has(Mod::Exch)) {
      if (grid.options.uninitialised)
        return grid.report(warp, i, lane,
                           "updates " + hexText(place.offset) + ", which nothing wrote");
      unwritten |= 1u << lane;
    }
    uint64_t fresh = swaps ? old == operand ? warp.read(warp.operand(i, at + 2), lane) : old
                           : combine(code, old, operand);
    if (std::memcmp(place.data, &fresh, bytes)) {
      std::memcpy(place.data, &fresh, bytes);
      grid.progress();
    }
    if (place.shadow)
      markBytes(place.shadow, bytes, Byte::Written);
    if (returns)
      warp.write(warp.operand(i, 0), lane, old);
    synchronise(warp, code, place, true, true);
  }
  if (returns)
    warp.define(warp.operand(i, 0), unwritten, i.line);
  meetLanes(warp); // perhaps by what one lane has told another
  warp.yields = true;
}

void fence(Warp &warp, const Instruction &i) {
  if (!warp.block->grid->options.races)
    return;
  if (i.opcode.has(Mod::TensormapGeneric))
    return; // tensor maps that a kernel wrote are refused
  if (i.opcode.hasAny({Mod::Proxy, Mod::MbarrierInit})) {
    warp.proxied = std::make_unique<Clocks>(warp.clocks);
  } else {
    unsigned scopes = scopeOf(i.opcode) + 1u;
    for (unsigned scope = 0; scope < scopes; ++scope)
      if (auto acquired = std::move(warp.acquired[scope]))
        warp.clocks.join(*acquired);
    for (unsigned scope = 0; scope < scopes; ++scope)
      warp.released[scope] = std::make_unique<Clocks>(warp.clocks);
  }
  advance(warp);
}

} // namespace

Handler selectAtomic(const Entry &entry, const Instruction &i) {
  const Opcode &code = i.opcode;
  if (code.op == Op::Fence || code.op == Op::Membar)
    return fence;
  if (code.op != Op::Atom && code.op != Op::Red)
    return nullptr;
  unsigned at = code.op == Op::Atom ? 1 : 0, bits = bitsOf(code.type());
  bool pair = code.type() == Type::F16x2 || code.type() == Type::BF16x2;
  bool knownType = (bits == 32 || bits == 64) && (!pair || code.has(Mod::Add));
  bool knownOp = code.hasAny({Mod::Add, Mod::Min, Mod::Max, Mod::Inc, Mod::Dec, Mod::Exch, Mod::Cas,
                              Mod::And, Mod::Or, Mod::Xor});
  bool fits = i.groups >= at + (code.has(Mod::Cas) ? 3u : 2u) && code.vector == 1 &&
              entry.operands[i.first + i.starts[at]].kind == Operand::Address;
  return knownType && knownOp && fits ? atomic : nullptr;
}

} // namespace moe::ptxsim
