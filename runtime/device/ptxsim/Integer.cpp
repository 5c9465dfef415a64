// Integer arithmetic, logic, shifts, comparisons.
#include "runtime/device/ptxsim/Lanes.h"

#include <algorithm>
#include <bit>

namespace moe::ptxsim {

namespace {

template <class T> using Unsigned = std::make_unsigned_t<T>;
// Wide enough that 16 bit products do not overflow an int.
template <class T> using Wrap = std::conditional_t<(sizeof(T) < 4), uint32_t, Unsigned<T>>;

template <class T>
using Twice = std::conditional_t<
    sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
    std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                       std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;

template <class T> T clampTo(Twice<T> value) {
  return T(std::clamp(value, Twice<T>(std::numeric_limits<T>::min()),
                      Twice<T>(std::numeric_limits<T>::max())));
}

// Seldom in kernels, or never in their loops.
template <class T> Handler selectRare(const Opcode &code) {
  switch (code.op) {
  case Op::Div: // by zero: all ones, as the hardware has it
    return rareLanewise<T(T, T)>([](T a, T b) {
      return b == 0 ? T(-1) : b == T(-1) && std::is_signed_v<T> ? T(0 - Wrap<T>(a)) : T(a / b);
    });
  case Op::Rem:
    return rareLanewise<T(T, T)>([](T a, T b) {
      return b == 0 ? a : b == T(-1) && std::is_signed_v<T> ? T(0) : T(a % b);
    });
  case Op::Abs:
    return rareLanewise<T(T)>([](T a) { return T(a < T(0) ? 0 - Wrap<T>(a) : Wrap<T>(a)); });
  case Op::Neg:
    return rareLanewise<T(T)>([](T a) { return T(0 - Wrap<T>(a)); });
  case Op::Sad:
    return rareLanewise<T(T, T, T)>([](T a, T b, T c) {
      return T(Wrap<T>(c) + (a < b ? Wrap<T>(b) - Wrap<T>(a) : Wrap<T>(a) - Wrap<T>(b)));
    });
  case Op::Cnot:
    return rareLanewise<T(T)>([](T a) { return T(a == 0); });
  case Op::Popc:
    return rareLanewise<uint32_t(T)>([](T a) { return uint32_t(std::popcount(Unsigned<T>(a))); });
  case Op::Clz:
    return rareLanewise<uint32_t(T)>(
        [](T a) { return uint32_t(std::countl_zero(Unsigned<T>(a))); });
  case Op::Bfind:
    if (code.has(Mod::Shiftamt))
      return rareLanewise<uint32_t(T)>([](T a) {
        auto bits = Unsigned<T>(std::is_signed_v<T> && a < T(0) ? ~a : a);
        return bits ? uint32_t(std::countl_zero(bits)) : ~0u;
      });
    return rareLanewise<uint32_t(T)>([](T a) {
      auto bits = Unsigned<T>(std::is_signed_v<T> && a < T(0) ? ~a : a);
      return uint32_t(std::bit_width(bits)) - 1;
    });
  case Op::Brev:
    return rareLanewise<T(T)>([](T a) {
      Unsigned<T> bits = Unsigned<T>(a), result = 0;
      for (unsigned i = 0; i < 8 * sizeof(T); ++i)
        result = Unsigned<T>(result << 1 | (bits >> i & 1));
      return T(result);
    });
  case Op::Bfe:
    return rareLanewise<T(T, uint32_t, uint32_t)>([](T a, uint32_t from, uint32_t count) {
      constexpr unsigned bits = 8 * sizeof(T);
      from &= 255, count &= 255;
      if (count == 0)
        return T(0);
      bool sign =
          std::is_signed_v<T> && (Unsigned<T>(a) >> std::min(from + count - 1, bits - 1) & 1);
      Unsigned<T> field = from < bits ? Unsigned<T>(Unsigned<T>(a) >> from) : Unsigned<T>(0);
      Unsigned<T> mask =
          count < bits ? Unsigned<T>((Unsigned<T>(1) << count) - 1) : Unsigned<T>(~Unsigned<T>(0));
      Unsigned<T> valid =
          from < bits ? Unsigned<T>(Unsigned<T>(~Unsigned<T>(0)) >> from) : Unsigned<T>(0);
      return T((field & mask) | (sign ? ~(mask & valid) : 0));
    });
  case Op::Bfi:
    return rareLanewise<T(T, T, uint32_t, uint32_t)>([](T a, T b, uint32_t at, uint32_t count) {
      constexpr unsigned bits = 8 * sizeof(T);
      at &= 255, count &= 255;
      if (count == 0 || at >= bits)
        return b;
      Unsigned<T> mask =
          count < bits ? Unsigned<T>((Unsigned<T>(1) << count) - 1) : Unsigned<T>(~Unsigned<T>(0));
      mask = Unsigned<T>(mask << at);
      return T((Unsigned<T>(b) & ~mask) | (Unsigned<T>(Unsigned<T>(a) << at) & mask));
    });
  default:
    return nullptr;
  }
}

// 16 bits are seldom, too.
template <class T, class Signature, class F> Handler common(F function) {
  if constexpr (sizeof(T) == 2)
    return rareLanewise<Signature>(function);
  else
    return lanewise<Signature>(function);
}

template <class T> Handler selectSaturating(const Opcode &code) {
  if (code.op == Op::Add)
    return rareLanewise<T(T, T)>([](T a, T b) { return clampTo<T>(Twice<T>(a) + Twice<T>(b)); });
  return rareLanewise<T(T, T)>([](T a, T b) { return clampTo<T>(Twice<T>(a) - Twice<T>(b)); });
}

template <class T> Handler selectSigned(const Opcode &code) {
  switch (code.op) {
  case Op::Add:
  case Op::Sub:
    return selectSaturating<T>(code);
  case Op::Mul:
    if constexpr (sizeof(T) < 8)
      if (code.has(Mod::Wide))
        return common<T, Twice<T>(T, T)>([](T a, T b) { return Twice<T>(Twice<T>(a) * b); });
    return rareLanewise<T(T, T)>(
        [](T a, T b) { return T(Twice<T>(Twice<T>(a) * b) >> 8 * sizeof(T)); });
  case Op::Mad:
    if constexpr (sizeof(T) < 8)
      if (code.has(Mod::Wide))
        return common<T, Twice<T>(T, T, Twice<T>)>([](T a, T b, Twice<T> c) {
          using U = Unsigned<Twice<T>>;
          return Twice<T>(U(Twice<T>(a) * b) + U(c));
        });
    return rareLanewise<T(T, T, T)>([](T a, T b, T c) {
      return T(Wrap<T>(T(Twice<T>(Twice<T>(a) * b) >> 8 * sizeof(T))) + Wrap<T>(c));
    });
  case Op::Min:
    return common<T, T(T, T)>([](T a, T b) { return std::min(a, b); });
  case Op::Max:
    return common<T, T(T, T)>([](T a, T b) { return std::max(a, b); });
  case Op::Shr: // amounts of the width and more shift everything out
    return common<T, T(T, uint32_t)>([](T a, uint32_t by) {
      constexpr uint32_t bits = 8 * sizeof(T);
      return by < bits ? T(a >> by) : T(std::is_signed_v<T> ? a >> (bits - 1) : 0);
    });
  default:
    return selectRare<T>(code);
  }
}

// What gives the same bits for signed and unsigned numbers.
bool ignoresSign(const Opcode &code) {
  switch (code.op) {
  case Op::Add:
  case Op::Sub:
    return !code.has(Mod::Sat);
  case Op::Mul:
  case Op::Mad:
    return !code.hasAny({Mod::Wide, Mod::Hi});
  case Op::And:
  case Op::Or:
  case Op::Xor:
  case Op::Not:
  case Op::Shl:
    return true;
  default:
    return false;
  }
}

template <class T> Handler selectUnsigned(const Opcode &code) {
  switch (code.op) {
  case Op::Add:
    return common<T, T(T, T)>([](T a, T b) { return T(Wrap<T>(a) + Wrap<T>(b)); });
  case Op::Sub:
    return common<T, T(T, T)>([](T a, T b) { return T(Wrap<T>(a) - Wrap<T>(b)); });
  case Op::Mul:
    return common<T, T(T, T)>([](T a, T b) { return T(Wrap<T>(a) * Wrap<T>(b)); });
  case Op::Mad:
    return common<T, T(T, T, T)>(
        [](T a, T b, T c) { return T(Wrap<T>(a) * Wrap<T>(b) + Wrap<T>(c)); });
  case Op::And:
    return common<T, T(T, T)>([](T a, T b) { return T(a & b); });
  case Op::Or:
    return common<T, T(T, T)>([](T a, T b) { return T(a | b); });
  case Op::Xor:
    return common<T, T(T, T)>([](T a, T b) { return T(a ^ b); });
  case Op::Not:
    return common<T, T(T)>([](T a) { return T(~a); });
  case Op::Shl:
    return common<T, T(T, uint32_t)>(
        [](T a, uint32_t by) { return by < 8 * sizeof(T) ? T(Wrap<T>(a) << by) : T(0); });
  default:
    return nullptr;
  }
}

Handler selectArithmetic(const Opcode &code) {
  if (!ignoresSign(code))
    return forInteger(code.type(), [&](auto zero) { return selectSigned<decltype(zero)>(code); });
  if (!forInteger(code.type(), [](auto) { return Handler([](Warp &, const Instruction &) {}); }))
    return nullptr; // no integer
  switch (bitsOf(code.type())) {
  case 16:
    return selectUnsigned<uint16_t>(code);
  case 32:
    return selectUnsigned<uint32_t>(code);
  default:
    return selectUnsigned<uint64_t>(code);
  }
}

uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (unsigned i = 0; i < 8; ++i) {
    uint32_t term = (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    result |= term & (0 - (table >> i & 1));
  }
  return result;
}

uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
  uint64_t bytes = uint64_t(b) << 32 | a;
  uint32_t result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    uint32_t pick = selector >> 4 * i & 15;
    uint32_t byte = uint32_t(bytes >> 8 * (pick & 7)) & 255;
    if (pick & 8)
      byte = byte & 128 ? 255 : 0;
    result |= byte << 8 * i;
  }
  return result;
}

template <bool aSigned, bool bSigned> uint32_t dot4(uint32_t a, uint32_t b, uint32_t c) {
  for (unsigned i = 0; i < 32; i += 8) {
    int32_t x = aSigned ? int8_t(a >> i) : int32_t(a >> i & 255);
    int32_t y = bSigned ? int8_t(b >> i) : int32_t(b >> i & 255);
    c += uint32_t(x * y);
  }
  return c;
}

Handler selectDot(const Opcode &code) {
  bool a = code.types[0] == Type::S32, b = code.types[1] == Type::S32;
  using U = uint32_t;
  if (a && b)
    return lanewise<U(U, U, U)>([](U x, U y, U z) { return dot4<true, true>(x, y, z); });
  if (a)
    return lanewise<U(U, U, U)>([](U x, U y, U z) { return dot4<true, false>(x, y, z); });
  if (b)
    return lanewise<U(U, U, U)>([](U x, U y, U z) { return dot4<false, true>(x, y, z); });
  return lanewise<U(U, U, U)>([](U x, U y, U z) { return dot4<false, false>(x, y, z); });
}

Handler selectFunnel(const Opcode &code) {
  using U = uint32_t;
  bool wrap = code.has(Mod::Wrap);
  if (code.has(Mod::L)) {
    if (wrap)
      return lanewise<U(U, U, U)>(
          [](U low, U high, U by) { return U((uint64_t(high) << 32 | low) << (by & 31) >> 32); });
    return lanewise<U(U, U, U)>([](U low, U high, U by) {
      return U((uint64_t(high) << 32 | low) << std::min(by, 32u) >> 32);
    });
  }
  if (wrap)
    return lanewise<U(U, U, U)>(
        [](U low, U high, U by) { return U((uint64_t(high) << 32 | low) >> (by & 31)); });
  return lanewise<U(U, U, U)>(
      [](U low, U high, U by) { return U((uint64_t(high) << 32 | low) >> std::min(by, 32u)); });
}

// Logic on predicates, which are lane masks.
template <class F> Handler predicateLogic(F) {
  return [](Warp &warp, const Instruction &i) {
    const Operand *operand = warp.operands + i.first;
    uint32_t values[2] = {0, 0}, bad = 0, origin = i.line;
    for (unsigned n = 1; n < i.operands && n < 3; ++n) {
      values[n - 1] = warp.predicates[operand[n].slot] ^ (operand[n].negated ? ~0u : 0);
      bad |= warp.undefinedLanes(operand[n]);
      if (warp.undefinedLanes(operand[n]) & warp.active)
        origin = warp.originOf(operand[n]);
    }
    warp.writePredicate(operand[0], F{}(values[0], values[1]));
    warp.define(operand[0], bad, origin);
  };
}

Handler selectPredicate(const Opcode &code) {
  using U = uint32_t;
  switch (code.op) {
  case Op::And:
    return predicateLogic([](U a, U b) { return a & b; });
  case Op::Or:
    return predicateLogic([](U a, U b) { return a | b; });
  case Op::Xor:
    return predicateLogic([](U a, U b) { return a ^ b; });
  case Op::Not:
    return predicateLogic([](U a, U) { return ~a; });
  case Op::Mov:
    return predicateLogic([](U a, U) { return a; });
  default:
    return nullptr;
  }
}

} // namespace

Handler selectInteger(const Entry &, const Instruction &i) {
  const Opcode &code = i.opcode;
  if (code.type() == Type::Pred)
    return i.operands >= 2 ? selectPredicate(code) : nullptr;
  using U = uint32_t;
  switch (code.op) {
  case Op::Lop3:
    return i.operands == 5
               ? lanewise<U(U, U, U, U)>([](U a, U b, U c, U t) { return lop3(a, b, c, t); })
               : nullptr;
  case Op::Prmt:
    if (code.hasAny({Mod::F4e, Mod::B4e, Mod::Rc8, Mod::Ecl, Mod::Ecr, Mod::Rc16}))
      return nullptr;
    return lanewise<U(U, U, U)>([](U a, U b, U c) { return permute(a, b, c); });
  case Op::Shf:
    return selectFunnel(code);
  case Op::Dp4a:
    return selectDot(code);
  case Op::Addc:
  case Op::Subc:
    return nullptr;
  default:
    break;
  }
  if (code.has(Mod::Cc))
    return nullptr;
  return selectArithmetic(code);
}

} // namespace moe::ptxsim
