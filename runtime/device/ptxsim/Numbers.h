// The number formats of the GPU on the host: conversions that round as IEEE 754 says.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_NUMBERS_H
#define MOE_RUNTIME_DEVICE_PTXSIM_NUMBERS_H

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace moe::ptxsim {

enum class Round : uint8_t { Nearest, Zero, Down, Up };

// A float with EXPONENT and MANTISSA bits.
struct Format {
  int exponent, mantissa;
  bool infinities; // else the largest exponent holds numbers, and all ones is NaN (e4m3)
};
inline constexpr Format kHalf{5, 10, true}, kBrain{8, 7, true}, kE5M2{5, 2, true},
    kE4M3{4, 3, false}, kTF32{8, 10, true};

// The largest finite value, as its bits.
constexpr uint32_t largest(const Format &f) {
  uint32_t ones = (1u << (f.exponent + f.mantissa)) - 1;
  return f.infinities ? ones - (1u << f.mantissa) : ones - 1;
}

// SATURATE: results beyond the range become the largest finite value.
inline uint32_t encode(const Format &f, double value, Round round = Round::Nearest,
                       bool saturate = false) {
  uint32_t sign = std::signbit(value) ? 1u << (f.exponent + f.mantissa) : 0;
  uint32_t all = (1u << (f.exponent + f.mantissa)) - 1;
  if (std::isnan(value))
    return f.infinities ? all : sign | all;
  double magnitude = std::fabs(value);
  uint32_t infinity = f.infinities ? all - ((1u << f.mantissa) - 1) : all;
  if (magnitude == 0)
    return sign;
  if (std::isinf(magnitude))
    return sign | (saturate ? largest(f) : infinity);
  int bias = (1 << (f.exponent - 1)) - 1;
  int exponent = std::ilogb(magnitude);
  if (exponent < 1 - bias)
    exponent = 1 - bias; // subnormal
  double scaled = std::ldexp(magnitude, f.mantissa - exponent);
  double whole = std::floor(scaled), rest = scaled - whole;
  bool away = (round == Round::Up && !sign) || (round == Round::Down && sign);
  bool odd = std::fmod(whole, 2) != 0;
  if (round == Round::Nearest ? rest > 0.5 || (rest == 0.5 && odd) : away && rest > 0)
    whole += 1;
  // A carry out of the mantissa moves to the exponent by itself.
  uint32_t bits = uint32_t(int64_t(whole)) + (uint32_t(exponent + bias - 1) << f.mantissa);
  if (bits > largest(f)) {
    bool toLargest = round == Round::Zero || (round != Round::Nearest && !away);
    bits = saturate || toLargest ? largest(f) : infinity;
  }
  return sign | bits;
}

inline float decode(const Format &f, uint32_t bits) {
  int bias = (1 << (f.exponent - 1)) - 1;
  uint32_t mantissa = bits & ((1u << f.mantissa) - 1);
  uint32_t exponent = bits >> f.mantissa & ((1u << f.exponent) - 1);
  bool negative = bits >> (f.exponent + f.mantissa) & 1;
  uint32_t top = (1u << f.exponent) - 1;
  float value;
  if (exponent == top && f.infinities)
    value =
        mantissa ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  else if (!f.infinities && exponent == top && mantissa == (1u << f.mantissa) - 1)
    value = std::numeric_limits<float>::quiet_NaN();
  else if (exponent == 0)
    value = std::ldexp(float(mantissa), 1 - bias - f.mantissa);
  else
    value = std::ldexp(float(mantissa | 1u << f.mantissa), int(exponent) - bias - f.mantissa);
  return negative ? -value : value;
}

// bf16 and f16 as types of their own, for the loops that must be fast.
struct Brain {
  uint16_t bits;
  static Brain from(float value) {
    uint32_t all = std::bit_cast<uint32_t>(value);
    uint32_t rounded = (all + 0x7fff + (all >> 16 & 1)) >> 16;
    bool nan = (all & 0x7fffffff) > 0x7f800000;
    return {uint16_t(nan ? 0x7fff : rounded)};
  }
  float value() const { return std::bit_cast<float>(uint32_t(bits) << 16); }
};

struct Half {
  uint16_t bits;
  static Half from(float value) { // after F. Giesen's float_to_half_fast3_rtne
    uint32_t all = std::bit_cast<uint32_t>(value), sign = all & 0x80000000;
    all ^= sign;
    uint32_t result;
    if (all >= (127u + 16) << 23) {
      result = all > 0x7f800000 ? 0x7fff : 0x7c00;
      if (all > 0x7f800000)
        sign = 0;
    } else if (all < 113u << 23) {
      constexpr uint32_t magic = (127u - 15 + 23 - 10 + 1) << 23;
      result =
          std::bit_cast<uint32_t>(std::bit_cast<float>(all) + std::bit_cast<float>(magic)) - magic;
    } else {
      result = (all + 0xc8000fff + (all >> 13 & 1)) >> 13;
    }
    return {uint16_t(result | sign >> 16)};
  }
  float value() const {
    uint32_t all = uint32_t(bits & 0x7fff) << 13, exponent = all & 0x0f800000;
    all += 112u << 23;
    if (exponent == 0x0f800000)
      all += 112u << 23;
    else if (exponent == 0)
      all = std::bit_cast<uint32_t>(std::bit_cast<float>(all + (1u << 23)) -
                                    std::bit_cast<float>(113u << 23));
    return std::bit_cast<float>(all | uint32_t(bits & 0x8000) << 16);
  }
};

// a * b + c rounded to odd as a double, which a second rounding to a narrower type leaves correct.
// The product of two floats is exact.
inline double fusedOdd(double a, double b, double c) {
  double product = a * b, sum = product + c;
  double back = sum - product;
  double lost = (product - (sum - back)) + (c - back);
  uint64_t bits = std::bit_cast<uint64_t>(sum);
  bool inexact = lost != 0 && lost == lost && sum - sum == 0;
  // Truncate towards zero, then set the last bit.
  bool beyond = (lost < 0) != (sum < 0);
  uint64_t odd = (bits - (inexact && beyond ? 1 : 0)) | 1;
  return std::bit_cast<double>(inexact ? odd : bits);
}

inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// VALUE, wherever it was rounded to odd, as a float rounded that way.
inline float roundFloat(double value, Round round) {
  float nearest = float(value);
  if (round == Round::Nearest || double(nearest) == value || std::isnan(value))
    return nearest;
  bool larger = double(nearest) > value;
  bool wantLarger = round == Round::Up || (round == Round::Zero && value < 0);
  if (larger == wantLarger)
    return nearest;
  return std::nextafter(nearest, wantLarger ? std::numeric_limits<float>::infinity()
                                            : -std::numeric_limits<float>::infinity());
}

// VALUE as a float rounded to odd, for a further rounding to 16 bits.
inline float oddFloat(double value) {
  float nearest = float(value);
  if (double(nearest) == value || std::isnan(value))
    return nearest;
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  bits -= std::fabs(double(nearest)) > std::fabs(value);
  return std::bit_cast<float>(bits | 1);
}

inline float flush(float value) {
  return std::fabs(value) < std::numeric_limits<float>::min() ? std::copysign(0.0f, value) : value;
}

} // namespace moe::ptxsim

#endif
