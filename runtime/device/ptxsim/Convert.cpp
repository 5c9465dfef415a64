// cvt between all the number formats: through a double, which holds every one of them exactly but
// 64 bit integers, and those have a way of their own.
#include "runtime/device/ptxsim/Lanes.h"
#include "runtime/device/ptxsim/Numbers.h"

#include <algorithm>

namespace moe::ptxsim {

namespace {

bool isInteger(Type type) {
  switch (type) {
  case Type::U8:
  case Type::U16:
  case Type::U32:
  case Type::U64:
  case Type::S8:
  case Type::S16:
  case Type::S32:
  case Type::S64:
    return true;
  default:
    return false;
  }
}

const Format *smallFormat(Type type) {
  switch (type) {
  case Type::F16:
  case Type::F16x2:
    return &kHalf;
  case Type::BF16:
  case Type::BF16x2:
    return &kBrain;
  case Type::E4M3x2:
    return &kE4M3;
  case Type::E5M2x2:
    return &kE5M2;
  case Type::TF32:
    return &kTF32;
  default:
    return nullptr;
  }
}

bool isFloat(Type type) {
  return type == Type::F32 || type == Type::F64 || smallFormat(type) != nullptr;
}

// Sign- or zero-extends the low bits of a register.
int64_t integerOf(Type type, uint64_t bits) {
  unsigned width = bitsOf(type);
  if (width == 64)
    return int64_t(bits);
  bits &= (uint64_t(1) << width) - 1;
  return isSigned(type) ? int64_t(bits << (64 - width)) >> (64 - width) : int64_t(bits);
}

uint64_t convertIntegers(const Opcode &code, uint64_t bits) {
  Type to = code.types[0], from = code.types[1];
  int64_t value = integerOf(from, bits);
  if (code.has(Mod::Sat)) {
    bool negative = isSigned(from) && value < 0;
    unsigned width = bitsOf(to);
    uint64_t most = isSigned(to) ? (uint64_t(1) << (width - 1)) - 1 : ~uint64_t(0) >> (64 - width);
    if (negative)
      value = isSigned(to) ? std::max(value, -int64_t(most) - 1) : 0;
    else if (uint64_t(value) > most)
      value = int64_t(most);
  }
  return uint64_t(integerOf(to, uint64_t(value)));
}

double decodeFloat(const Opcode &code, Type type, uint64_t bits) {
  if (type == Type::F64)
    return std::bit_cast<double>(bits);
  if (type == Type::F32) {
    float value = std::bit_cast<float>(uint32_t(bits));
    return code.has(Mod::Ftz) ? flush(value) : value;
  }
  return decode(*smallFormat(type), uint32_t(bits));
}

Round roundingOf(const Opcode &code) {
  return code.hasAny({Mod::Rz, Mod::Rzi})   ? Round::Zero
         : code.hasAny({Mod::Rm, Mod::Rmi}) ? Round::Down
         : code.hasAny({Mod::Rp, Mod::Rpi}) ? Round::Up
                                            : Round::Nearest;
}

double roundWhole(double value, Round round) {
  switch (round) {
  case Round::Nearest:
    return std::nearbyint(value);
  case Round::Zero:
    return std::trunc(value);
  case Round::Down:
    return std::floor(value);
  case Round::Up:
    return std::ceil(value);
  }
  return value;
}

// Out of range saturates, and NaN is 0, as the hardware does for 32 bits.
uint64_t floatToInteger(Type to, double value, Round round) {
  if (std::isnan(value))
    return bitsOf(to) == 64 ? uint64_t(1) << 63 : 0;
  value = roundWhole(value, round);
  unsigned width = bitsOf(to);
  double limit = std::ldexp(1.0, int(width) - (isSigned(to) ? 1 : 0));
  double least = isSigned(to) ? -limit : 0;
  if (value < least)
    value = least;
  if (value >= limit)
    return isSigned(to) ? (uint64_t(1) << (width - 1)) - 1 : ~uint64_t(0) >> (64 - width);
  return uint64_t(integerOf(to, value < 0 ? uint64_t(int64_t(value)) : uint64_t(value)));
}

uint64_t encodeFloat(const Opcode &code, Type to, double value) {
  bool toWhole = code.hasAny({Mod::Rni, Mod::Rzi, Mod::Rmi, Mod::Rpi});
  Round round = roundingOf(code);
  if (toWhole)
    value = roundWhole(value, round);
  if (code.has(Mod::Sat))
    value = value > 0 ? std::min(value, 1.0) : 0;
  if (code.has(Mod::Relu) && !std::isnan(value) && value < 0)
    value = 0;
  if (to == Type::F64)
    return std::bit_cast<uint64_t>(value);
  if (to == Type::F32) {
    float result = roundFloat(value, round);
    return std::bit_cast<uint32_t>(code.has(Mod::Ftz) ? flush(result) : result);
  }
  if (to == Type::TF32) // rna: ties away from zero, by adding half of the last place
    return (std::bit_cast<uint32_t>(float(value)) + 0x1000) & ~0x1fffu;
  return encode(*smallFormat(to), value, round, code.has(Mod::Satfinite));
}

uint64_t integerToFloat(const Opcode &code, uint64_t bits) {
  Type from = code.types[1];
  int64_t value = integerOf(from, bits);
  int64_t exact = int64_t(1) << 53;
  if (bitsOf(from) < 64 || (value < exact && value > (isSigned(from) ? -exact : -1)))
    return encodeFloat(code, code.types[0], double(value));
  // Beyond 53 bits: keep the lowest bit odd if anything is lost, then round once.
  bool negative = isSigned(from) && value < 0;
  uint64_t magnitude = negative ? 0 - uint64_t(value) : uint64_t(value);
  if (code.types[0] == Type::F64)
    return std::bit_cast<uint64_t>(negative ? -double(magnitude) : double(magnitude));
  uint64_t kept = magnitude >> 12 << 12 | uint64_t((magnitude & 4095) != 0) << 12;
  return encodeFloat(code, code.types[0], negative ? -double(kept) : double(kept));
}

uint64_t convertOne(const Opcode &code, uint64_t bits) {
  Type to = code.types[0], from = code.types[1];
  if (isInteger(from))
    return isInteger(to) ? convertIntegers(code, bits) : integerToFloat(code, bits);
  double value = decodeFloat(code, from, bits);
  return isInteger(to) ? floatToInteger(to, value, roundingOf(code)) : encodeFloat(code, to, value);
}

void convert(Warp &warp, const Instruction &i) {
  const Operand &to = warp.operand(i, 0), &from = warp.operand(i, 1);
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (warp.active >> lane & 1)
      warp.write(to, lane, convertOne(i.opcode, warp.read(from, lane)));
  warp.define(to, warp.undefinedLanes(from), warp.originOf(from));
}

// cvt.rn.bf16x2.f32 d, a, b: a becomes the upper half.
void packPair(Warp &warp, const Instruction &i) {
  const Operand &to = warp.operand(i, 0), &high = warp.operand(i, 1), &low = warp.operand(i, 2);
  unsigned half = bitsOf(i.opcode.types[0]) / 2;
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (warp.active >> lane & 1)
      warp.write(to, lane,
                 convertOne(i.opcode, warp.read(high, lane)) << half |
                     convertOne(i.opcode, warp.read(low, lane)));
  uint32_t bad = warp.undefinedLanes(high) | warp.undefinedLanes(low);
  warp.define(to, bad, warp.originOf(warp.undefinedLanes(high) & warp.active ? high : low));
}

// cvt.rn.f16x2.e4m3x2, cvt.rn.satfinite.e4m3x2.f16x2.
void convertPair(Warp &warp, const Instruction &i) {
  const Operand &to = warp.operand(i, 0), &from = warp.operand(i, 1);
  unsigned toHalf = bitsOf(i.opcode.types[0]) / 2, fromHalf = bitsOf(i.opcode.types[1]) / 2;
  uint64_t mask = (uint64_t(1) << fromHalf) - 1;
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (warp.active >> lane & 1) {
      uint64_t value = warp.read(from, lane);
      warp.write(to, lane,
                 convertOne(i.opcode, value >> fromHalf & mask) << toHalf |
                     convertOne(i.opcode, value & mask));
    }
  warp.define(to, warp.undefinedLanes(from), warp.originOf(from));
}

bool isPair(Type type) {
  return type == Type::F16x2 || type == Type::BF16x2 || type == Type::E4M3x2 ||
         type == Type::E5M2x2;
}

} // namespace

Handler selectConvert(const Entry &entry, const Instruction &i) {
  const Opcode &code = i.opcode;
  Type to = code.types[0], from = code.types[1];
  if (code.op != Op::Cvt || code.typeCount != 2)
    return nullptr;
  if (isPair(to) && from == Type::F32)
    return i.operands == 3 ? packPair : nullptr;
  if (isPair(to) || isPair(from))
    return isPair(to) && isPair(from) && i.operands == 2 ? convertPair : nullptr;
  if ((!isInteger(to) && !isFloat(to)) || (!isInteger(from) && !isFloat(from)) || i.operands != 2)
    return nullptr;
  // The conversions that kernels use most, where the registers are as wide as the types.
  const Operand *operand = entry.operands.data() + i.first;
  bool exact = operand[0].kind == Operand::Register && operand[0].bits == bitsOf(to) &&
               operand[1].bits == bitsOf(from) && code.mods.count() <= 1;
  if (exact && code.has(Mod::Rn) && from == Type::F32 && to == Type::BF16)
    return lanewise<Brain(float)>([](float a) { return Brain::from(a); });
  if (exact && code.has(Mod::Rn) && from == Type::F32 && to == Type::F16)
    return lanewise<Half(float)>([](float a) { return Half::from(a); });
  if (exact && !code.mods.any() && to == Type::F32 && from == Type::BF16)
    return lanewise<float(Brain)>([](Brain a) { return a.value(); });
  if (exact && !code.mods.any() && to == Type::F32 && from == Type::F16)
    return lanewise<float(Half)>([](Half a) { return a.value(); });
  if (exact && !code.mods.any() && from == Type::U32 && bitsOf(to) == 64 && isInteger(to))
    return lanewise<uint64_t(uint32_t)>([](uint32_t a) { return uint64_t(a); });
  if (exact && !code.mods.any() && from == Type::S32 && bitsOf(to) == 64 && isInteger(to))
    return lanewise<int64_t(int32_t)>([](int32_t a) { return int64_t(a); });
  if (exact && !code.mods.any() && bitsOf(from) == 64 && bitsOf(to) == 32 && isInteger(to) &&
      isInteger(from))
    return lanewise<uint32_t(uint64_t)>([](uint64_t a) { return uint32_t(a); });
  if (exact && code.has(Mod::Rn) && from == Type::S32 && to == Type::F32)
    return lanewise<float(int32_t)>([](int32_t a) { return float(a); });
  return convert;
}

} // namespace moe::ptxsim
