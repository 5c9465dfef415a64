// Moves, selections, comparisons and address conversions.
#include "runtime/device/ptxsim/Lanes.h"
#include "runtime/device/ptxsim/Numbers.h"

namespace moe::ptxsim {

namespace {

// mov.b32 %r, {%rs1, %rs2}; mov.b32 {%rs1, %rs2}, %r;
void moveVector(Warp &warp, const Instruction &i) {
  bool packs = i.groupSize(1) > 1;
  unsigned count = i.groupSize(packs ? 1 : 0);
  unsigned bits = bitsOf(i.opcode.type()) / count;
  uint64_t mask = (uint64_t(1) << bits) - 1;
  uint32_t bad = 0, origin = i.line;
  for (unsigned n = 0; n < i.groupSize(1); ++n) {
    const Operand &source = warp.operand(i, 1, n);
    bad |= warp.undefinedLanes(source);
    if (warp.undefinedLanes(source) & warp.active)
      origin = warp.originOf(source);
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    if (packs) {
      uint64_t value = 0;
      for (unsigned n = 0; n < count; ++n)
        value |= (warp.read(warp.operand(i, 1, n), lane) & mask) << n * bits;
      warp.write(warp.operand(i, 0), lane, value);
    } else {
      uint64_t value = warp.read(warp.operand(i, 1), lane);
      for (unsigned n = 0; n < count; ++n)
        warp.write(warp.operand(i, 0, n), lane, value >> n * bits & mask);
    }
  }
  for (unsigned n = 0; n < i.groupSize(0); ++n)
    warp.define(warp.operand(i, 0, n), bad, origin);
}

void moveTimer(Warp &warp, const Instruction &i) {
  // Time that passes with the instructions, so that runs with the same seed are the same.
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (warp.active >> lane & 1)
      warp.write(warp.operand(i, 0), lane, warp.block->grid->stats.instructions);
  warp.define(warp.operand(i, 0), 0, i.line);
  warp.yields = true;
}

Handler selectMov(const Instruction &i, const Operand *operands) {
  unsigned bits = bitsOf(i.opcode.type());
  if (i.groups != 2)
    return nullptr;
  if (i.groupSize(0) > 1 || i.groupSize(1) > 1) {
    bool fits = i.groupSize(0) == 1 || i.groupSize(1) == 1;
    return fits && bits <= 64 && bits ? moveVector : nullptr;
  }
  const Operand &source = operands[i.first + 1];
  if (source.timer)
    return moveTimer;
  if (bits == 64)
    return lanewise<uint64_t(uint64_t)>([](uint64_t a) { return a; });
  if (bits == 32)
    return lanewise<uint32_t(uint32_t)>([](uint32_t a) { return a; });
  return bits == 16 ? lanewise<uint16_t(uint16_t)>([](uint16_t a) { return a; }) : nullptr;
}

template <class T> void select(Warp &warp, const Instruction &i) {
  const Operand *operand = warp.operands + i.first;
  const Operand &condition = operand[3];
  uint32_t which = warp.predicates[condition.slot] ^ (condition.negated ? ~0u : 0);
  const Held<T> *a = lanesOf<T>(warp, operand[1]), *b = lanesOf<T>(warp, operand[2]);
  Held<T> results[kLanes];
  for (unsigned lane = 0; lane < kLanes; ++lane)
    results[lane] = which >> lane & 1 ? a[lane] : b[lane];
  auto *to = reinterpret_cast<Held<T> *>(warp.slots[operand[0].slot].lanes);
  for (unsigned lane = 0; lane < kLanes; ++lane)
    to[lane] = warp.active >> lane & 1 ? results[lane] : to[lane];
  uint32_t fromA = warp.undefinedLanes(operand[1]), fromB = warp.undefinedLanes(operand[2]);
  uint32_t unknown = warp.undefinedLanes(condition);
  uint32_t bad = ((which & fromA) | (~which & fromB) | unknown) & warp.active;
  const Operand &culprit = bad & unknown         ? condition
                           : bad & which & fromA ? operand[1]
                                                 : operand[2];
  warp.define(operand[0], bad, bad ? warp.originOf(culprit) : i.line);
}

Handler selectSelp(const Instruction &i) {
  unsigned bits = bitsOf(i.opcode.type());
  if (i.operands != 4)
    return nullptr;
  return bits == 64 ? select<uint64_t> : bits == 32 ? select<uint32_t> : select<uint16_t>;
}

// Keeps what a comparison gave, in predicates or, for `set`, in a register.
void keepComparison(Warp &warp, const Instruction &i, uint32_t result) {
  const Operand &a = warp.operand(i, 1), &b = warp.operand(i, 2);
  uint32_t negation = ~result;
  uint32_t bad = (warp.undefinedLanes(a) | warp.undefinedLanes(b)) & warp.active;
  uint32_t origin = !bad                           ? i.line
                    : warp.undefinedLanes(a) & bad ? warp.originOf(a)
                                                   : warp.originOf(b);
  if (i.groups > 3) {
    const Operand &c = warp.operand(i, 3);
    uint32_t with = warp.predicates[c.slot] ^ (c.negated ? ~0u : 0);
    auto combine = [&](uint32_t &value) {
      value = i.opcode.has(Mod::And)  ? value & with
              : i.opcode.has(Mod::Or) ? value | with
                                      : value ^ with;
    };
    combine(result);
    combine(negation);
    bad |= warp.undefinedLanes(c) & warp.active;
  }
  if (i.opcode.op == Op::Set) {
    const Operand &to = warp.operand(i, 0);
    uint64_t yes = i.opcode.type() == Type::F32 ? 0x3f800000 : ~uint64_t(0);
    for (unsigned lane = 0; lane < kLanes; ++lane)
      if (warp.active >> lane & 1)
        warp.write(to, lane, result >> lane & 1 ? yes : 0);
    warp.define(to, bad, origin);
    return;
  }
  warp.writePredicate(warp.operand(i, 0), result);
  warp.define(warp.operand(i, 0), bad, origin);
  if (i.groupSize(0) > 1) {
    warp.writePredicate(warp.operand(i, 0, 1), negation);
    warp.define(warp.operand(i, 0, 1), bad, origin);
  }
}

template <class T, class F> MOE_PTXSIM_INLINE void compare(Warp &warp, const Instruction &i) {
  const Held<T> *x = lanesOf<T>(warp, warp.operand(i, 1)),
                *y = lanesOf<T>(warp, warp.operand(i, 2));
  uint32_t result = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane)
    result |= uint32_t(F{}(valueOf<T>(x[lane]), valueOf<T>(y[lane]))) << lane;
  keepComparison(warp, i, result);
}
template <class T, class F> void compareOften(Warp &warp, const Instruction &i) {
  compare<T, F>(warp, i);
}
template <class T, class F> MOE_PTXSIM_SMALL void compareRarely(Warp &warp, const Instruction &i) {
  compare<T, F>(warp, i);
}

// 16 bits and doubles are seldom compared.
template <class T, class F> Handler comparison(F) {
  if constexpr (sizeof(T) == 2 || std::is_same_v<T, double>)
    return compareRarely<T, F>;
  else
    return compareOften<T, F>;
}

template <class T> Handler selectOrder(const Opcode &code) {
  if (code.hasAny({Mod::Eq}))
    return comparison<T>([](T a, T b) { return a == b; });
  if (code.has(Mod::Ne)) // of unordered floats: false
    return comparison<T>([](T a, T b) { return a < b || a > b; });
  if (code.hasAny({Mod::Lt, Mod::Lo}))
    return comparison<T>([](T a, T b) { return a < b; });
  if (code.hasAny({Mod::Le, Mod::Ls}))
    return comparison<T>([](T a, T b) { return a <= b; });
  if (code.hasAny({Mod::Gt, Mod::Hi}))
    return comparison<T>([](T a, T b) { return a > b; });
  if (code.hasAny({Mod::Ge, Mod::Hs}))
    return comparison<T>([](T a, T b) { return a >= b; });
  return nullptr;
}

template <class T> Handler selectUnordered(const Opcode &code) {
  if (code.has(Mod::Equ))
    return comparison<T>([](T a, T b) { return !(a < b || a > b); });
  if (code.has(Mod::Neu))
    return comparison<T>([](T a, T b) { return !(a == b); });
  if (code.has(Mod::Ltu))
    return comparison<T>([](T a, T b) { return !(a >= b); });
  if (code.has(Mod::Leu))
    return comparison<T>([](T a, T b) { return !(a > b); });
  if (code.has(Mod::Gtu))
    return comparison<T>([](T a, T b) { return !(a <= b); });
  if (code.has(Mod::Geu))
    return comparison<T>([](T a, T b) { return !(a < b); });
  if (code.has(Mod::Num))
    return comparison<T>([](T a, T b) { return a == a && b == b; });
  if (code.has(Mod::Nan))
    return comparison<T>([](T a, T b) { return a != a || b != b; });
  return selectOrder<T>(code);
}

struct HalfValue : Half {
  float f() const { return value(); }
  auto operator<=>(const HalfValue &o) const { return f() <=> o.f(); }
  bool operator==(const HalfValue &o) const { return f() == o.f(); }
};
struct BrainValue : Brain {
  float f() const { return value(); }
  auto operator<=>(const BrainValue &o) const { return f() <=> o.f(); }
  bool operator==(const BrainValue &o) const { return f() == o.f(); }
};

Handler selectCompare(const Instruction &i) {
  const Opcode &code = i.opcode;
  if (i.groups < 3 || (i.groups > 3 && !code.hasAny({Mod::And, Mod::Or, Mod::Xor})))
    return nullptr;
  Type type = code.op == Op::Set ? code.types[1] : code.type();
  if (type == Type::F32)
    return selectUnordered<float>(code);
  if (type == Type::F64)
    return selectUnordered<double>(code);
  if (type == Type::F16)
    return selectUnordered<HalfValue>(code);
  if (type == Type::BF16)
    return selectUnordered<BrainValue>(code);
  return forInteger(type, [&](auto zero) { return selectOrder<decltype(zero)>(code); });
}

// cvta.shared.u64 (to generic), cvta.to.shared.u64 (from generic).
Handler selectCvta(const Instruction &i) {
  const Opcode &code = i.opcode;
  using U = uint64_t;
  bool to = code.has(Mod::To);
  switch (code.space()) {
  case Space::Global:
  case Space::Const:
    return lanewise<U(U)>([](U a) { return a; });
  case Space::Shared:
    return to ? lanewise<U(U)>([](U a) { return a - kSharedWindow; })
              : lanewise<U(U)>([](U a) { return a + kSharedWindow; });
  case Space::Local:
    return to ? lanewise<U(U)>([](U a) { return a - kLocalWindow; })
              : lanewise<U(U)>([](U a) { return a + kLocalWindow; });
  case Space::Param:
    return to ? lanewise<U(U)>([](U a) { return a - kParamWindow; })
              : lanewise<U(U)>([](U a) { return a + kParamWindow; });
  case Space::Generic:
    return nullptr;
  }
  return nullptr;
}

template <uint64_t window, uint64_t size = kWindowBytes>
void isInWindow(Warp &warp, const Instruction &i) {
  uint32_t result = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    uint64_t address = warp.read(warp.operand(i, 1), lane);
    bool inside = window ? address - window < size : address < kSharedWindow;
    result |= uint32_t(inside) << lane;
  }
  warp.writePredicate(warp.operand(i, 0), result);
  warp.define(warp.operand(i, 0), warp.undefinedLanes(warp.operand(i, 1)), i.line);
}

Handler selectIsspacep(const Opcode &code) {
  switch (code.space()) {
  case Space::Shared:
    return code.has(Mod::SharedCluster)
               ? isInWindow<kSharedWindow>
               : isInWindow<kSharedWindow, uint64_t(1) << kRankShift>; // its own block's
  case Space::Local:
    return isInWindow<kLocalWindow>;
  case Space::Param:
    return isInWindow<kParamWindow>;
  default:
    return isInWindow<0>;
  }
}

void testNumber(Warp &warp, const Instruction &i) {
  const Opcode &code = i.opcode;
  uint32_t result = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    uint64_t bits = warp.read(warp.operand(i, 1), lane);
    double value = code.type() == Type::F64 ? std::bit_cast<double>(bits)
                                            : double(std::bit_cast<float>(uint32_t(bits)));
    bool normal = code.type() == Type::F64 ? std::isnormal(value) : std::isnormal(float(value));
    bool is = code.has(Mod::Finite)       ? std::isfinite(value)
              : code.has(Mod::Infinite)   ? std::isinf(value)
              : code.has(Mod::Number)     ? !std::isnan(value)
              : code.has(Mod::Notanumber) ? std::isnan(value)
              : code.has(Mod::Normal)     ? normal
                                          : !normal && value != 0 && std::isfinite(value);
    result |= uint32_t(is) << lane;
  }
  warp.writePredicate(warp.operand(i, 0), result);
  warp.define(warp.operand(i, 0), warp.undefinedLanes(warp.operand(i, 1)), i.line);
}

} // namespace

Handler selectMove(const Entry &entry, const Instruction &i) {
  using U = uint32_t;
  switch (i.opcode.op) {
  case Op::Mov:
    return selectMov(i, entry.operands.data());
  case Op::Selp:
    return selectSelp(i);
  case Op::Slct:
    if (bitsOf(i.opcode.type()) != 32 || i.operands != 4)
      return nullptr;
    if (i.opcode.types[1] == Type::F32)
      return lanewise<U(U, U, float)>([](U a, U b, float c) { return c >= 0 ? a : b; });
    return lanewise<U(U, U, int32_t)>([](U a, U b, int32_t c) { return c >= 0 ? a : b; });
  case Op::Setp:
  case Op::Set:
    return selectCompare(i);
  case Op::Cvta:
    return selectCvta(i);
  case Op::Isspacep:
    return selectIsspacep(i.opcode);
  case Op::Testp:
    return testNumber;
  default:
    return nullptr;
  }
}

} // namespace moe::ptxsim
