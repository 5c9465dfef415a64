// Applies a function of plain values to the lanes of registers: the loops that compilers vectorise.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_LANES_H
#define MOE_RUNTIME_DEVICE_PTXSIM_LANES_H

#include "runtime/device/ptxsim/Isa.h"
#include "runtime/device/ptxsim/Warp.h"

#include <bit>
#include <cstring>
#include <type_traits>
#include <utility>

namespace moe::ptxsim {

template <unsigned bytes> struct BitsOf;
template <> struct BitsOf<1> {
  using type = uint8_t;
};
template <> struct BitsOf<2> {
  using type = uint16_t;
};
template <> struct BitsOf<4> {
  using type = uint32_t;
};
template <> struct BitsOf<8> {
  using type = uint64_t;
};
template <class T> using Bits = BitsOf<sizeof(T)>::type;

// How a register holds a T: narrow ones are zero-extended to 32 bits.
template <class T, bool wide = sizeof(T) == 8> struct HeldAs {
  using type = Word;
};
template <class T> struct HeldAs<T, true> {
  using type = Long;
};
template <class T> using Held = HeldAs<T>::type;

template <class T> MOE_PTXSIM_INLINE T valueOf(Held<T> held) {
  return std::bit_cast<T>(Bits<T>(held));
}
template <class T> MOE_PTXSIM_INLINE Held<T> heldOf(T value) {
  return Held<T>(std::bit_cast<Bits<T>>(value));
}
template <class T> const Held<T> *lanesOf(Warp &warp, const Operand &operand) {
  return reinterpret_cast<const Held<T> *>(warp.slots[operand.slot].lanes);
}

// Keeps results for the active lanes, and what is undefined of them.
template <class Held>
[[gnu::noinline]] void keepSome(Warp &warp, const Instruction &i, unsigned sources,
                                const Held *results) {
  const Operand *operand = warp.operands + i.first;
  auto *to = reinterpret_cast<Held *>(warp.slots[operand->slot].lanes);
  uint32_t bad = 0, origin = i.line;
  for (unsigned n = sources; n > 0; --n)
    if (uint32_t lanes = warp.undefined[operand[n].slot] & warp.active) {
      bad |= lanes;
      origin = warp.origin[operand[n].slot];
    }
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (warp.active >> lane & 1)
      to[lane] = results[lane];
  warp.define(*operand, bad, origin);
}

// WHOLE: only if the warp is full and all is defined, so that results need not be kept apart; else
// false, and nothing was done.
template <bool whole, class D, class... S, class F, size_t... I>
MOE_PTXSIM_INLINE bool mapLanes(Warp &warp, const Instruction &i, F function,
                                std::index_sequence<I...>) {
  const Operand *operand = warp.operands + i.first;
  if (operand->kind != Operand::Register)
    return true;
  uint32_t undefined = (warp.undefined[operand->slot] | ... | warp.undefined[operand[I + 1].slot]);
  if (whole && (warp.active != ~0u || undefined))
    return false;
  alignas(64) Held<D> results[kLanes];
  auto compute = [&](const Held<S> *...sources) __attribute__((always_inline)) {
    for (unsigned lane = 0; lane < kLanes; ++lane)
      results[lane] = heldOf<D>(function(valueOf<S>(sources[lane])...));
  };
  compute(lanesOf<S>(warp, operand[I + 1])...);
  if constexpr (whole)
    std::memcpy(warp.slots[operand->slot].lanes, results, sizeof results);
  else
    keepSome(warp, i, sizeof...(S), results);
  return true;
}

template <class Signature> struct Lanewise;
template <class D, class... S> struct Lanewise<D(S...)> {
  using Sequence = std::index_sequence_for<S...>;
  template <class F> [[gnu::noinline]] static void some(Warp &warp, const Instruction &i) {
    mapLanes<false, D, S...>(warp, i, F{}, Sequence{});
  }
  template <class F> MOE_PTXSIM_INLINE static void run(Warp &warp, const Instruction &i) {
    if (!mapLanes<true, D, S...>(warp, i, F{}, Sequence{}))
      some<F>(warp, i);
  }
  template <class F> MOE_PTXSIM_SMALL static void small(Warp &warp, const Instruction &i) {
    mapLanes<false, D, S...>(warp, i, F{}, Sequence{});
  }
  template <class F> static Handler handler(F) { return versions<&run<F>>(); }
  template <class F> static Handler smallHandler(F) { return small<F>; }
};

// lanewise<uint32_t(uint32_t, uint32_t)>([](auto a, auto b) { return a + b; }): a handler whose
// first operand is the result. The function sees idle lanes too, so it must be total.
template <class Signature, class F> Handler lanewise(F function) {
  return Lanewise<Signature>::handler(function);
}
// The same for what kernels seldom execute: one version, and a short one.
template <class Signature, class F> Handler rareLanewise(F function) {
  return Lanewise<Signature>::smallHandler(function);
}

// The same function for one of several types: forType<int32_t, uint32_t>(type, ...).
template <class F> Handler forInteger(Type type, F make) {
  switch (type) {
  case Type::B16:
  case Type::U16:
    return make(uint16_t());
  case Type::S16:
    return make(int16_t());
  case Type::B32:
  case Type::U32:
    return make(uint32_t());
  case Type::S32:
    return make(int32_t());
  case Type::B64:
  case Type::U64:
    return make(uint64_t());
  case Type::S64:
    return make(int64_t());
  default:
    return nullptr;
  }
}

} // namespace moe::ptxsim

#endif
