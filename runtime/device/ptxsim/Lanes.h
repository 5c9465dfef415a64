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
template <class T> using Bits = typename BitsOf<sizeof(T)>::type;

// How a register holds a T: narrow ones are zero-extended to 32 bits.
template <class T, bool wide = sizeof(T) == 8> struct HeldAs {
  using type = Word;
};
template <class T> struct HeldAs<T, true> {
  using type = Long;
};
template <class T> using Held = typename HeldAs<T>::type;

template <class T> MOE_PTXSIM_INLINE T valueOf(Held<T> held) {
  return std::bit_cast<T>(Bits<T>(held));
}
template <class T> MOE_PTXSIM_INLINE Held<T> heldOf(T value) {
  return Held<T>(std::bit_cast<Bits<T>>(value));
}
template <class T> const Held<T> *lanesOf(Warp &warp, const Operand &operand) {
  return reinterpret_cast<const Held<T> *>(warp.slots[operand.slot].lanes);
}

template <class D>
MOE_PTXSIM_INLINE void store(Warp &warp, const Operand &operand, const Held<D> *values) {
  auto *to = reinterpret_cast<Held<D> *>(warp.slots[operand.slot].lanes);
  if (warp.active == ~0u) {
    std::memcpy(to, values, sizeof(Held<D>) * kLanes);
    return;
  }
  for (unsigned lane = 0; lane < kLanes; ++lane)
    to[lane] = warp.active >> lane & 1 ? values[lane] : to[lane];
}

template <class... S, size_t... I>
MOE_PTXSIM_INLINE uint32_t undefinedInputs(const Warp &warp, const Operand *sources,
                                           std::index_sequence<I...>) {
  return (0u | ... | warp.undefined[sources[I].slot]);
}

template <class D, class... S, class F, size_t... I>
MOE_PTXSIM_INLINE void mapLanes(Warp &warp, const Instruction &i, F function,
                                std::index_sequence<I...> sequence) {
  const Operand *operand = warp.operands + i.first;
  if (operand->kind != Operand::Register)
    return;
  alignas(64) Held<D> results[kLanes];
  auto compute = [&](const Held<S> *...sources) __attribute__((always_inline)) {
    for (unsigned lane = 0; lane < kLanes; ++lane)
      results[lane] = heldOf<D>(function(valueOf<S>(sources[lane])...));
  };
  compute(lanesOf<S>(warp, operand[I + 1])...);
  store<D>(warp, *operand, results);
  uint32_t bad = undefinedInputs<S...>(warp, operand + 1, sequence) & warp.active;
  if (bad | (warp.undefined[operand->slot] & warp.active)) {
    uint32_t origin = i.line;
    ((warp.undefined[operand[I + 1].slot] & bad ? void(origin = warp.origin[operand[I + 1].slot])
                                                : void()),
     ...);
    warp.define(*operand, bad, origin);
  }
}

template <class Signature> struct Lanewise;
template <class D, class... S> struct Lanewise<D(S...)> {
  template <class F> MOE_PTXSIM_INLINE static void run(Warp &warp, const Instruction &i) {
    mapLanes<D, S...>(warp, i, F{}, std::index_sequence_for<S...>{});
  }
  template <class F> static Handler handler(F) { return versions<&run<F>>(); }
};

// lanewise<uint32_t(uint32_t, uint32_t)>([](auto a, auto b) { return a + b; }): a handler whose
// first operand is the result. The function sees idle lanes too, so it must be total.
template <class Signature, class F> Handler lanewise(F function) {
  return Lanewise<Signature>::handler(function);
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
