// For a scale s the best codes q are the nearest ones, and for codes the best scale is
// <x, q> / <q, q>, with the squared error <x, x> - <x, q>^2 / <q, q>. So a search tries a list of
// scales, by <x, q>^2 / <q, q> alone, refines the best one by the formula, and judges what is left
// by the error with the scale as it is stored. (As make_qx_quants of llama.cpp does.)
//
// The loops are written with vectors of 16, whatever the processor has, so that sums are formed in
// one order everywhere; the build keeps products and sums apart (-ffp-contract=off).
#include "compiler/plan/Quantize.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/MathExtras.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>

using namespace llvm;
using namespace moe;

namespace {

#if defined(__x86_64__)
#define MOE_WIDE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MOE_WIDE
#endif

constexpr int64_t kLanes = 16;
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));

// Adding and taking away 1.5 * 2^23 rounds to an integer, ties to even, magnitudes below 2^22.
constexpr float kRounder = 12582912.0f;

struct Range {
  float low, high;
};

Range rangeOf(Storage element) { return element == Storage::I4 ? Range{-8, 7} : Range{-127, 127}; }

// Of the halves, of their halves, and so on.
#define MOE_SUM(v)                                                                                 \
  (v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7),       \
   v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11),       \
   v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13),       \
   v[0] + v[1])

// A group, padded with zeros, which are coded without an error, to whole vectors.
struct Group {
  ArrayRef<float> values;
  ArrayRef<float> importance;  // empty: all are 1
  SmallVector<float> weighted; // values times importance; empty without one

  Group(ArrayRef<float> x, ArrayRef<float> w) : values(x), importance(w) {
    assert((w.empty() || w.size() == x.size()) && "an importance for each value");
    if (x.size() % kLanes) {
      padded[0].assign(x.begin(), x.end());
      padded[0].resize(alignTo(x.size(), kLanes), 0);
      values = padded[0];
    }
    if (w.empty())
      return;
    if (w.size() % kLanes) {
      padded[1].assign(w.begin(), w.end());
      padded[1].resize(values.size(), 0);
      importance = padded[1];
    }
    weighted.resize_for_overwrite(values.size());
    for (size_t i = 0; i < values.size(); ++i)
      weighted[i] = values[i] * importance[i];
  }

private:
  SmallVector<float> padded[2];
};

struct Products {
  float xq, qq; // <x, q> and <q, q>
};

// For each inverse of a scale; `w` and `wx` may be null together.
MOE_WIDE void products(const float *x, const float *wx, const float *w, size_t count, Range range,
                       const float *inverses, size_t candidates, Products *out) {
  const Vector low = Vector{} + range.low, high = Vector{} + range.high;
  for (size_t c = 0; c < candidates; ++c) {
    Vector xq = {}, qq = {};
    for (size_t i = 0; i < count; i += kLanes) {
      Vector v, u;
      std::memcpy(&v, x + i, sizeof(v));
      Vector q = v * inverses[c];
      q = q > low ? q : low;
      q = q < high ? q : high;
      q = (q + kRounder) - kRounder;
      if (!w) {
        xq += v * q;
        qq += q * q;
        continue;
      }
      std::memcpy(&v, wx + i, sizeof(v));
      std::memcpy(&u, w + i, sizeof(u));
      xq += v * q;
      qq += u * q * q;
    }
    out[c] = {MOE_SUM(xq), MOE_SUM(qq)};
  }
}

// The squared error with a scale that is not 0.
MOE_WIDE float errorOf(const float *x, const float *w, size_t count, Range range, float scale) {
  const Vector low = Vector{} + range.low, high = Vector{} + range.high;
  const float inverse = 1 / scale;
  Vector sum = {};
  for (size_t i = 0; i < count; i += kLanes) {
    Vector v, u = Vector{} + 1.0f;
    std::memcpy(&v, x + i, sizeof(v));
    if (w)
      std::memcpy(&u, w + i, sizeof(u));
    Vector q = v * inverse;
    q = q > low ? q : low;
    q = q < high ? q : high;
    q = (q + kRounder) - kRounder;
    const Vector error = v - q * scale;
    sum += u * error * error;
  }
  return MOE_SUM(sum);
}

MOE_WIDE void integerCodes(const float *x, size_t count, Range range, float scale, float zero,
                           uint8_t *out) {
  for (size_t i = 0; i < count; ++i) {
    float q = x[i] / scale;
    q = q > range.low ? q : range.low;
    q = q < range.high ? q : range.high;
    out[i] = uint8_t(int32_t((q + kRounder) - kRounder + zero));
  }
}

// As toE4M3, without a branch.
uint8_t e4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const float magnitude = std::min(std::bit_cast<float>(bits & 0x7fffffff), 448.0f);
  const uint32_t m = std::bit_cast<uint32_t>(magnitude);
  const uint32_t normal = ((m + 0x7ffff + (m >> 20 & 1)) >> 20) - (120 << 3);
  // In units of 2^-9, which are the last place of 2^14.
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(magnitude + 16384.0f) - std::bit_cast<uint32_t>(16384.0f);
  return uint8_t((magnitude < 0x1p-6f ? subnormal : normal) | (bits >> 24 & 0x80));
}

MOE_WIDE void floatCodes(const float *x, size_t count, float scale, uint8_t *out) {
  for (size_t i = 0; i < count; ++i)
    out[i] = e4m3(x[i] / scale);
}

// All values of E4M3.
std::array<float, 256> e4m3Values() {
  std::array<float, 256> values;
  for (int code = 0; code < 256; ++code) {
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    float value =
        exponent ? std::ldexp(float(8 + mantissa), exponent - 10) : std::ldexp(float(mantissa), -9);
    if ((code & 0x7f) == 0x7f)
      value = std::numeric_limits<float>::quiet_NaN();
    values[code] = code & 0x80 ? -value : value;
  }
  return values;
}

uint32_t toBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

uint32_t toF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000;
  const uint32_t m = bits & 0x7fffffff;
  if (m >= 0x477ff000) // rounds to 65536 or more
    return sign | 0x7c00;
  if (m < 0x38800000) // subnormal: adding 0.5 leaves units of 2^-24 in the mantissa
    return sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(m) + 0.5f) - 0x3f000000);
  return sign | (m - 0x38000000 + 0xfff + (m >> 13 & 1)) >> 13;
}

float fromF16(uint32_t half) {
  // The product mends the exponent's bias, of subnormals too.
  const float value = std::bit_cast<float>((half & 0x7fff) << 13) * 0x1p112f;
  const float magnitude =
      (half & 0x7fff) >= 0x7c00 ? std::numeric_limits<float>::infinity() : value;
  return half & 0x8000 ? -magnitude : magnitude;
}

// The value of the largest magnitude, the first of several.
MOE_WIDE float extremeOf(const float *x, size_t count) {
  uint32_t most = 0;
  for (size_t i = 0; i < count; ++i)
    most = std::max(most, std::bit_cast<uint32_t>(x[i]) & 0x7fffffff);
  const float magnitude = std::bit_cast<float>(most);
  for (size_t i = 0; i < count; ++i)
    if (std::fabs(x[i]) == magnitude)
      return x[i];
  return magnitude;
}

// Divisions by it stay finite and normal enough.
bool usable(float scale) {
  return std::isfinite(scale) && std::fabs(scale) >= std::numeric_limits<float>::min();
}

// Multiples of the inverse of I4's AbsMax scale. Below 1 the extreme is no code's; above, it is cut
// off. On groups of 32 and 128 elements, normal and heavy-tailed, the error with these six is 0.1 %
// to 0.7 % above the least of all scales on average; twice as many, or the other sign too, which
// would put the extreme on 7, come 0.4 % nearer for twice the time.
constexpr float kSteps[] = {0.9f, 0.98f, 1.06f, 1.15f, 1.25f, 1.37f};

float searchScale(const WeightFormat &format, Range range, float extreme, const Group &group) {
  const float *x = group.values.data();
  const float *w = group.importance.empty() ? nullptr : group.importance.data();
  const size_t count = group.values.size();
  const auto tryAll = [&](ArrayRef<float> inverses, Products *out) {
    products(x, group.weighted.data(), w, count, range, inverses.data(), inverses.size(), out);
  };
  constexpr size_t tries = std::size(kSteps);
  float inverses[tries];
  Products found[tries];
  for (size_t i = 0; i < tries; ++i)
    inverses[i] = range.low / extreme * kSteps[i];
  tryAll(inverses, found);
  const auto gain = [](const Products &p) { return p.qq > 0 ? p.xq * (p.xq / p.qq) : 0; };
  const size_t best =
      std::max_element(found, found + tries, [&](auto &a, auto &b) { return gain(a) < gain(b); }) -
      found;

  float scale = 0, least = std::numeric_limits<float>::infinity();
  const auto judge = [&](float candidate) {
    const float stored = roundScale(format.scale, candidate);
    if (!usable(stored))
      return;
    const float error = errorOf(x, w, count, range, stored);
    if (error < least || scale == 0) {
      least = error;
      scale = candidate;
    }
  };
  judge(extreme / range.low); // AbsMax's
  judge(1 / inverses[best]);
  Products refined = found[best];
  for (int round = 0; round < 2 && refined.qq > 0; ++round) {
    judge(refined.xq / refined.qq);
    const float inverse = refined.qq / refined.xq;
    if (!std::isfinite(inverse))
      break;
    tryAll(inverse, &refined);
  }
  return scale;
}

} // namespace

uint8_t moe::toE4M3(float value) {
  assert(!std::isnan(value) && "no NaN is coded");
  return e4m3(value);
}

float moe::fromE4M3(uint8_t code) {
  static const std::array<float, 256> values = e4m3Values();
  return values[code];
}

uint32_t moe::scaleBits(Storage type, float scale) {
  assert(!std::isnan(scale) && "no scale is NaN");
  return type == Storage::F32    ? std::bit_cast<uint32_t>(scale)
         : type == Storage::BF16 ? toBf16(scale)
                                 : toF16(scale);
}

float moe::roundScale(Storage type, float scale) {
  const uint32_t bits = scaleBits(type, scale);
  return type == Storage::F32    ? scale
         : type == Storage::BF16 ? std::bit_cast<float>(bits << 16)
                                 : fromF16(bits);
}

float moe::dequantize(const WeightFormat &format, uint8_t code, float scale, int64_t zero) {
  if (format.element == Storage::F8E4M3)
    return fromE4M3(code) * scale;
  return float(int64_t(code) - zero) * scale;
}

float moe::quantizeGroup(const WeightFormat &format, ScaleChoice choice, ArrayRef<float> values,
                         ArrayRef<float> importance, MutableArrayRef<uint8_t> codes) {
  assert(format.quantized() && !format.zeros && codes.size() == values.size());
  const bool isFloat = format.element == Storage::F8E4M3;
  const Range range = isFloat ? Range{-448, 448} : rangeOf(format.element);
  const float extreme = extremeOf(values.data(), values.size());
  float scale = extreme / range.low;
  if (format.element != Storage::I4)
    scale = std::fabs(scale);
  if (choice == ScaleChoice::LeastSquares && format.element == Storage::I4 &&
      usable(roundScale(format.scale, scale)))
    scale = searchScale(format, range, extreme, Group(values, importance));
  scale = roundScale(format.scale, scale);
  if (!usable(scale)) {
    std::fill(codes.begin(), codes.end(), uint8_t(format.zero()));
    return std::isfinite(scale) ? 0 : scale;
  }
  if (isFloat)
    floatCodes(values.data(), values.size(), scale, codes.data());
  else
    integerCodes(values.data(), values.size(), range, scale, float(format.zero()), codes.data());
  return scale;
}

std::optional<size_t> moe::recoverCodes(const WeightFormat &format, float scale, int64_t zero,
                                        ArrayRef<float> values, MutableArrayRef<uint8_t> codes) {
  assert(codes.size() == values.size());
  const bool isFloat = format.element == Storage::F8E4M3;
  const int64_t most = format.element == Storage::I4 ? 15 : 255;
  for (size_t i = 0; i < values.size(); ++i) {
    // A quotient that is no number, of a scale of 0, is the zero's code.
    const float quotient = values[i] / scale;
    const bool finite = std::isfinite(quotient);
    if (isFloat)
      codes[i] = finite ? e4m3(quotient) : 0;
    else
      codes[i] =
          finite ? uint8_t(std::clamp(std::nearbyint(quotient) + float(zero), 0.0f, float(most)))
                 : uint8_t(std::min(zero, most));
    if (dequantize(format, codes[i], scale, zero) != values[i])
      return i;
  }
  return std::nullopt;
}
