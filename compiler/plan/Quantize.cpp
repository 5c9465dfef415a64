// For a scale s the best codes q are the nearest ones, and for codes the best scale is
// <x, q> / <q, q>, with the squared error <x, x> - <x, q>^2 / <q, q>. So a search tries a list of
// scales, by <x, q>^2 / <q, q> alone, refines the best one by the formula, and judges what is left
// by the error with the scale as it is stored. (As make_qx_quants of llama.cpp does.)
//
// Vectors have 16 lanes, a group each, whatever the processor has. A sum over a group is formed in
// one order everywhere: the elements i, i + 16, i + 32, ... one after the other, and then the 16
// sums in pairs, by halves. The build keeps products and sums apart (-ffp-contract=off).
#include "compiler/plan/Quantize.h"

#include "llvm/ADT/STLExtras.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>

using namespace llvm;
using namespace moe;

namespace {

#if defined(__x86_64__)
#define MOE_WIDE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MOE_WIDE
#endif

// Of functions that are a part of another: compiled for what it is compiled for. Vectors go by
// reference, as how they go by value depends on that.
#define MOE_PART [[gnu::always_inline]] inline

constexpr int64_t kLanes = kQuantizedGroups;
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Mask __attribute__((vector_size(kLanes * sizeof(float))));
typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

struct Range {
  float low, high;
};

Range rangeOf(Storage element) {
  return element == Storage::I4   ? Range{-8, 7}
         : element == Storage::I8 ? Range{-127, 127}
                                  : Range{-448, 448};
}

// 16 groups. `w` is null where all elements are of the same importance.
struct Groups {
  const float *x;
  int64_t stride, count;
  const float *w;
};

MOE_PART void load(const Groups &groups, int64_t i, Vector &out) {
  std::memcpy(&out, groups.x + i * groups.stride, sizeof(out));
}

MOE_PART void clampAndRound(const Range &range, Vector &q) {
  const Vector low = Vector{} + range.low, high = Vector{} + range.high;
  q = q > low ? q : low;
  q = q < high ? q : high;
  q = __builtin_elementwise_roundeven(q);
}

// sum += a * b where the product and the sum need no rounding, as those of codes do not: one
// instruction for both, where there is one, gives the same.
MOE_PART void addExact(const Vector &a, const Vector &b, Vector &sum) {
#pragma clang fp contract(fast)
  sum += a * b;
}

// Of the halves, of their halves, and so on; into the first.
MOE_PART void sumInPairs(Vector *sums) {
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i)
      sums[i] += sums[i + half];
}

// <x, q> and <q, q>, with the codes of these inverses of scales.
MOE_PART void products(const Groups &groups, const Range &range, const Vector &inverse, Vector &xq,
                       Vector &qq) {
  Vector xqs[kLanes], qqs[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    Vector xqSum = {}, qqSum = {};
    for (int64_t i = lane; i < groups.count; i += kLanes) {
      Vector x;
      load(groups, i, x);
      Vector q = x * inverse;
      clampAndRound(range, q);
      if (groups.w) {
        const float w = groups.w[i];
        xqSum += x * w * q;
        qqSum += w * q * q;
      } else {
        xqSum += x * q;
        addExact(q, q, qqSum);
      }
    }
    xqs[lane] = xqSum;
    qqs[lane] = qqSum;
  }
  sumInPairs(xqs);
  sumInPairs(qqs);
  xq = xqs[0];
  qq = qqs[0];
}

// The squared errors with these scales.
MOE_PART void errorsOf(const Groups &groups, const Range &range, const Vector &scale,
                       Vector &error) {
  const Vector inverse = 1 / scale;
  Vector sums[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    Vector sum = {};
    for (int64_t i = lane; i < groups.count; i += kLanes) {
      Vector x;
      load(groups, i, x);
      Vector q = x * inverse;
      clampAndRound(range, q);
      const Vector difference = x - q * scale;
      sum += groups.w ? groups.w[i] * difference * difference : difference * difference;
    }
    sums[lane] = sum;
  }
  sumInPairs(sums);
  error = sums[0];
}

// As toE4M3, without a branch: of a float, or of each of a vector; `codes` are integers as wide.
template <typename Float, typename Integer>
MOE_PART void e4m3(const Float &values, Integer &codes) {
  const Integer bits = __builtin_bit_cast(Integer, values);
  Float magnitude = __builtin_bit_cast(Float, Integer(bits & 0x7fffffff));
  magnitude = magnitude < 448.0f ? magnitude : Float{} + 448.0f;
  const Integer m = __builtin_bit_cast(Integer, magnitude);
  const Integer normal = ((m + 0x7ffff + (m >> 20 & 1)) >> 20) - (120 << 3);
  // In units of 2^-9, which are the last place of 2^14.
  const Integer subnormal =
      __builtin_bit_cast(Integer, Float(magnitude + 16384.0f)) - std::bit_cast<int32_t>(16384.0f);
  codes = (magnitude < 0x1p-6f ? subnormal : normal) | (bits >> 24 & 0x80);
}
uint8_t codeOf(float value) {
  int32_t code;
  e4m3(value, code);
  return uint8_t(code);
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

MOE_PART uint32_t toBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Without branches, as are those below.
MOE_PART uint32_t toF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000;
  const uint32_t m = bits & 0x7fffffff;
  // Adding 0.5 leaves units of 2^-24, of a subnormal number, in the mantissa.
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(m) + 0.5f) - 0x3f000000;
  const uint32_t normal = (m - 0x38000000 + 0xfff + (m >> 13 & 1)) >> 13;
  // What rounds to 65536 or more becomes infinite.
  return sign | (m >= 0x477ff000 ? 0x7c00 : m < 0x38800000 ? subnormal : normal);
}

MOE_PART float fromF16(uint32_t half) {
  // The product mends the exponent's bias, of subnormals too.
  const float value = std::bit_cast<float>((half & 0x7fff) << 13) * 0x1p112f;
  const float magnitude =
      (half & 0x7fff) >= 0x7c00 ? std::numeric_limits<float>::infinity() : value;
  return half & 0x8000 ? -magnitude : magnitude;
}

MOE_PART void roundScales(Storage type, const Vector &scales, Vector &out) {
  out = scales;
  if (type == Storage::F16)
    for (int64_t g = 0; g < kLanes; ++g)
      out[g] = fromF16(toF16(scales[g]));
  else if (type == Storage::BF16)
    for (int64_t g = 0; g < kLanes; ++g)
      out[g] = std::bit_cast<float>(toBf16(scales[g]) << 16);
}

MOE_PART void magnitudes(const Vector &values, Vector &out) {
  out = reinterpret_cast<Vector>(reinterpret_cast<Mask>(values) & 0x7fffffff);
}

// Divisions by them stay finite and normal enough.
MOE_PART void areUsable(const Vector &scales, Mask &out) {
  Vector magnitude;
  magnitudes(scales, magnitude);
  out = (magnitude >= std::numeric_limits<float>::min()) &
        (magnitude <= std::numeric_limits<float>::max());
}

// The values of the largest magnitude, the first of several.
MOE_PART void extremesOf(const Groups &groups, Vector &out) {
  Vector most = Vector{} - 1;
  for (int64_t i = 0; i < groups.count; ++i) {
    Vector x, magnitude;
    load(groups, i, x);
    magnitudes(x, magnitude);
    out = magnitude > most ? x : out;
    most = magnitude > most ? magnitude : most;
  }
}

// Multiples of the inverse of I4's AbsMax scale. Below 1 the extreme is no code's; above, it is cut
// off. On groups of 32 and 128 elements, normal and heavy-tailed, the error with these six is 0.1 %
// to 0.7 % above the least of all scales on average; twice as many, or the other sign too, which
// would put the extreme on 7, come 0.4 % nearer for twice the time.
constexpr float kSteps[] = {0.9f, 0.98f, 1.06f, 1.15f, 1.25f, 1.37f};

// The scales that a search judges, and the best one so far.
struct Best {
  Vector scale, error;
};

// Of the groups that `among` has.
MOE_PART void judge(const Groups &groups, const Range &range, Storage scaleType,
                    const Vector &candidate, const Mask &among, Best &best) {
  Vector stored, error;
  Mask usable;
  roundScales(scaleType, candidate, stored);
  areUsable(stored, usable);
  errorsOf(groups, range, stored, error);
  const Mask better = among & usable & ((error < best.error) | (best.scale == 0));
  best.error = better ? error : best.error;
  best.scale = better ? candidate : best.scale;
}

MOE_PART void searchScales(const Groups &groups, const Range &range, Storage scaleType,
                           const Vector &extreme, Vector &scale) {
  Vector bestInverse = {}, bestGain = {}, xq = {}, qq = {};
  bool first = true;
  for (float step : kSteps) {
    const Vector inverse = range.low / extreme * step;
    Vector ownXq, ownQq;
    products(groups, range, inverse, ownXq, ownQq);
    const Vector gain = ownQq > 0 ? ownXq * (ownXq / ownQq) : Vector{};
    const Mask better = first ? Mask{} - 1 : bestGain < gain;
    first = false;
    bestGain = better ? gain : bestGain;
    bestInverse = better ? inverse : bestInverse;
    xq = better ? ownXq : xq;
    qq = better ? ownQq : qq;
  }
  const Mask all = Mask{} - 1;
  Best best = {Vector{}, Vector{} + std::numeric_limits<float>::infinity()};
  judge(groups, range, scaleType, extreme / range.low, all, best); // AbsMax's
  judge(groups, range, scaleType, 1 / bestInverse, all, best);
  const Mask refinable = qq > 0;
  judge(groups, range, scaleType, xq / qq, refinable, best);
  const Vector inverse = qq / xq;
  Vector magnitude;
  magnitudes(inverse, magnitude);
  const Mask finite = magnitude <= std::numeric_limits<float>::max();
  products(groups, range, inverse, xq, qq);
  judge(groups, range, scaleType, xq / qq, refinable & finite & (qq > 0), best);
  scale = best.scale;
}

MOE_WIDE void quantize(const Groups &groups, Storage element, Storage scaleType, bool search,
                       float zero, float *scales, uint8_t *codes) {
  const Range range = rangeOf(element);
  Vector extreme = {}, scale, stored;
  Mask usable;
  extremesOf(groups, extreme);
  scale = extreme / range.low;
  if (element != Storage::I4)
    magnitudes(scale, scale);
  roundScales(scaleType, scale, stored);
  if (search) {
    areUsable(stored, usable);
    Vector found;
    searchScales(groups, range, scaleType, extreme, found);
    scale = usable ? found : scale;
    roundScales(scaleType, scale, stored);
  }
  areUsable(stored, usable);
  const Vector divisor = usable ? stored : Vector{} + 1;
  for (int64_t i = 0; i < groups.count; ++i) {
    Vector q;
    load(groups, i, q);
    q /= divisor;
    Mask code;
    if (element == Storage::F8E4M3) {
      e4m3(q, code);
    } else {
      clampAndRound(range, q);
      code = __builtin_convertvector(q + zero, Mask);
    }
    code = usable ? code : Mask{} + int32_t(zero);
    const Bytes out = __builtin_convertvector(code, Bytes);
    std::memcpy(codes + i * kLanes, &out, sizeof(out));
  }
  // Too small ones are 0; too large ones stay infinite.
  magnitudes(stored, extreme);
  stored = (usable | (extreme > std::numeric_limits<float>::max())) ? stored : Vector{};
  std::memcpy(scales, &stored, sizeof(stored));
}

} // namespace

uint8_t moe::toE4M3(float value) {
  assert(!std::isnan(value) && "no NaN is coded");
  return codeOf(value);
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

void moe::quantizeGroups(const WeightFormat &format, ScaleChoice choice, const float *values,
                         int64_t stride, int64_t count, ArrayRef<float> importance, float *scales,
                         uint8_t *codes) {
  assert(format.quantized() && !format.zeros && stride >= kLanes && count > 0);
  assert((importance.empty() || int64_t(importance.size()) == count) && "one for each element");
  const bool search = choice == ScaleChoice::LeastSquares && format.element == Storage::I4;
  quantize({values, stride, count, importance.empty() ? nullptr : importance.data()},
           format.element, format.scale, search, float(format.zero()), scales, codes);
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
      codes[i] = finite ? codeOf(quotient) : 0;
    else
      codes[i] =
          finite ? uint8_t(std::clamp(std::nearbyint(quotient) + float(zero), 0.0f, float(most)))
                 : uint8_t(std::min(zero, most));
    if (dequantize(format, codes[i], scale, zero) != values[i])
      return i;
  }
  return std::nullopt;
}
