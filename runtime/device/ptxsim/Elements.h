// What the elements of a matrix are worth, by their type.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_ELEMENTS_H
#define MOE_RUNTIME_DEVICE_PTXSIM_ELEMENTS_H

#include "runtime/device/ptxsim/Numbers.h"
#include "runtime/device/ptxsim/Opcode.h"

#include <array>
#include <type_traits>

namespace moe::ptxsim {

// All values of an 8 bit float.
template <Type type> const std::array<float, 256> &valuesOf() {
  static const std::array<float, 256> table = [] {
    std::array<float, 256> values;
    for (unsigned bits = 0; bits < 256; ++bits)
      values[bits] = decode(type == Type::E4M3 ? kE4M3 : kE5M2, bits);
    return values;
  }();
  return table;
}

// The element in the low bits of a word.
template <class T, Type type> T elementOf(uint32_t bits) {
  switch (type) {
  case Type::F16:
    return T(Half{uint16_t(bits)}.value());
  case Type::BF16:
    return T(Brain{uint16_t(bits)}.value());
  case Type::TF32: // the low mantissa bits are ignored
    return T(std::bit_cast<float>(bits & ~0x1fffu));
  case Type::E4M3:
    return T(valuesOf<Type::E4M3>()[bits & 255]);
  case Type::E5M2:
    return T(valuesOf<Type::E5M2>()[bits & 255]);
  case Type::S8:
    return T(int8_t(bits));
  default:
    return T(bits & 255);
  }
}

// What MAKE gives for the types of A and B, each of which is X or Y, as integral constants; null
// for other types.
template <Type X, Type Y, class Make> auto selectPair(Type a, Type b, Make make) {
  using IsX = std::integral_constant<Type, X>;
  using IsY = std::integral_constant<Type, Y>;
  using Made = decltype(make(IsX(), IsX()));
  auto ofB = [&](auto first) -> Made {
    return b == X ? make(first, IsX()) : b == Y ? make(first, IsY()) : Made(nullptr);
  };
  return a == X ? ofB(IsX()) : a == Y ? ofB(IsY()) : Made(nullptr);
}

} // namespace moe::ptxsim

#endif
