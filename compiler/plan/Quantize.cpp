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

Range rangeOf(Storage element) { return {infoOf(element).low, infoOf(element).high}; }

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

// The codes of F8E4M3 of a vector. In arrays, as loops over these become vector code.
MOE_PART void toF8(const Vector &values, Mask &codes) {
  float from[kLanes];
  int32_t to[kLanes];
  std::memcpy(from, &values, sizeof(from));
  for (int64_t g = 0; g < kLanes; ++g)
    to[g] = f8Of(from[g]);
  std::memcpy(&codes, to, sizeof(to));
}

MOE_PART void roundScales(Storage type, const Vector &scales, Vector &out) {
  out = scales;
  if (type == Storage::F16)
    for (int64_t g = 0; g < kLanes; ++g)
      out[g] = floatOfF16(f16Of(scales[g]));
  else if (type == Storage::BF16)
    for (int64_t g = 0; g < kLanes; ++g)
      out[g] = floatOfBf16(bf16Of(scales[g]));
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
      toF8(q, code);
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

float moe::dequantize(const WeightFormat &format, uint8_t code, float scale, int64_t zero) {
  return infoOf(format.element).decode(code, zero) * scale;
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
  const StorageInfo &info = infoOf(format.element);
  for (size_t i = 0; i < values.size(); ++i) {
    // A quotient that is no number, of a scale of 0, is the zero's code.
    const float quotient = values[i] / scale;
    codes[i] = uint8_t(info.encode(std::isfinite(quotient) ? quotient : 0, zero));
    if (info.decode(codes[i], zero) * scale != values[i])
      return i;
  }
  return std::nullopt;
}
