// Quantizes random groups, and compares with all scales that there are and with plain rounding.
#include "compiler/plan/TestGroup.h"

#include "llvm/ADT/APFloat.h"
#include "llvm/Support/FormatVariadic.h"

#include <bit>
#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <random>
#include <vector>

using namespace llvm;
using namespace moe;
using moe::test::quantizeGroup;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The nearest value of a format of APFloat, as float32.
float nearest(const fltSemantics &semantics, float value) {
  APFloat rounded(value);
  bool lost;
  rounded.convert(semantics, APFloat::rmNearestTiesToEven, &lost);
  rounded.convert(APFloat::IEEEsingle(), APFloat::rmNearestTiesToEven, &lost);
  return rounded.convertToFloat();
}

float nearestScale(Storage type, float value) {
  return type == Storage::F32    ? value
         : type == Storage::BF16 ? nearest(APFloat::BFloat(), value)
                                 : nearest(APFloat::IEEEhalf(), value);
}

struct Quantized {
  float scale;
  std::vector<uint8_t> codes;
};

Quantized quantize(const WeightFormat &format, ScaleChoice choice, ArrayRef<float> values,
                   ArrayRef<float> importance = {}) {
  Quantized q;
  q.codes.resize(values.size());
  q.scale = quantizeGroup(format, choice, values, importance, q.codes);
  return q;
}

double squaredError(const WeightFormat &format, const Quantized &q, ArrayRef<float> values,
                    ArrayRef<float> importance = {}) {
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double error = values[i] - dequantize(format, q.codes[i], q.scale, format.zero());
    sum += error * error * (importance.empty() ? 1 : importance[i]);
  }
  return sum;
}

// The least error of any codes with this scale.
double leastError(float scale, ArrayRef<float> values, ArrayRef<float> importance = {}) {
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    double least = kInfinity;
    for (int code = -8; code < 8; ++code)
      least = std::min(least, std::pow(double(values[i]) - double(code) * scale, 2));
    sum += least * (importance.empty() ? 1 : importance[i]);
  }
  return sum;
}

class QuantizeTest : public testing::Test {
protected:
  std::vector<float> values(size_t count, bool heavyTails = false) {
    std::normal_distribution<float> normal(0, 0.02f);
    std::student_t_distribution<float> heavy(3);
    std::vector<float> out(count);
    for (float &v : out)
      v = heavyTails ? 0.01f * heavy(random) : normal(random);
    return out;
  }
  std::mt19937 random{1};
};

WeightFormat format(Storage element, Storage scale = Storage::F16) { return {element, 1, scale}; }

// The scale is AbsMax's, and each code the nearest one.
TEST_F(QuantizeTest, absMax) {
  for (Storage element : {Storage::I4, Storage::I8, Storage::F8E4M3})
    for (Storage scale : {Storage::F32, Storage::F16, Storage::BF16})
      for (size_t count : {1, 7, 16, 31, 32, 128, 1000}) {
        const WeightFormat f = format(element, scale);
        const std::vector<float> x = values(count, count % 2);
        const Quantized q = quantize(f, ScaleChoice::AbsMax, x);
        float extreme = 0;
        for (float v : x)
          if (std::fabs(v) > std::fabs(extreme))
            extreme = v;
        EXPECT_EQ(q.scale,
                  nearestScale(scale, element == Storage::I4   ? extreme / -8
                                      : element == Storage::I8 ? std::fabs(extreme) / 127
                                                               : std::fabs(extreme) / 448));
        const int low = element == Storage::I8 ? 1 : 0, high = element == Storage::I4 ? 15 : 255;
        for (size_t i = 0; i < count; ++i) {
          float least = kInfinity;
          for (int code = low; code <= high; ++code)
            least = std::fmin(least, std::fabs(x[i] - dequantize(f, code, q.scale, f.zero())));
          const float mine = std::fabs(x[i] - dequantize(f, q.codes[i], q.scale, f.zero()));
          ASSERT_LE(mine, least * 1.00001f + std::fabs(x[i]) * 1e-6f);
          ASSERT_GE(q.codes[i], low);
          ASSERT_LE(q.codes[i], high);
        }
      }
}

// Against all scales of float16 of both signs.
TEST_F(QuantizeTest, searchComesNearTheLeastError) {
  const WeightFormat f = format(Storage::I4);
  for (bool heavyTails : {false, true})
    for (bool weighted : {false, true})
      for (size_t count : {32, 128}) {
        double found = 0, least = 0, plain = 0, symmetric = 0;
        for (int round = 0; round < 12; ++round) {
          const std::vector<float> x = values(count, heavyTails);
          std::vector<float> w;
          for (size_t i = 0; weighted && i < count; ++i)
            w.push_back(std::exp(std::normal_distribution<float>(0, 1.5f)(random)));
          float most = 0;
          for (float v : x)
            most = std::fmax(most, std::fabs(v));
          double best = kInfinity;
          const uint32_t end = infoOf(Storage::F16).encode(most / 5, 0);
          for (uint32_t bits = infoOf(Storage::F16).encode(most / 16, 0); bits < end; ++bits) {
            const float scale = APFloat(APFloat::IEEEhalf(), APInt(16, bits)).convertToFloat();
            best = std::min({best, leastError(scale, x, w), leastError(-scale, x, w)});
          }
          const Quantized q = quantize(f, ScaleChoice::LeastSquares, x, w);
          const double error = squaredError(f, q, x, w);
          EXPECT_GE(error, best * 0.9999);
          EXPECT_LE(error, best * 1.5);
          found += error;
          least += best;
          plain += squaredError(f, quantize(f, ScaleChoice::AbsMax, x), x, w);
          symmetric += leastError(nearestScale(Storage::F16, most / 7), x, w);
        }
        EXPECT_LE(found, least * (weighted ? 1.05 : 1.02)) << count << heavyTails << weighted;
        EXPECT_LE(found, plain * 0.97);
        EXPECT_LE(found, symmetric * 0.85);
      }
}

// The search in plain loops, with sums as they are formed on every machine.
struct PlainSearch {
  const WeightFormat &format;
  ArrayRef<float> x, w; // w may be empty

  static float sum(ArrayRef<float> terms) {
    float sums[16] = {};
    for (size_t i = 0; i < terms.size(); ++i)
      sums[i % 16] += terms[i];
    for (size_t half = 8; half > 0; half /= 2)
      for (size_t i = 0; i < half; ++i)
        sums[i] += sums[i + half];
    return sums[0];
  }
  float code(float quotient) const {
    return std::nearbyint(std::fmin(std::fmax(quotient, -8.0f), 7.0f));
  }
  std::pair<float, float> products(float inverse) const { // <x, q> and <q, q>
    std::vector<float> xq, qq;
    for (size_t i = 0; i < x.size(); ++i) {
      const float q = code(x[i] * inverse), weight = w.empty() ? 1 : w[i];
      const float wx = weight * x[i], wq = weight * q;
      xq.push_back(wx * q);
      qq.push_back(wq * q);
    }
    return {sum(xq), sum(qq)};
  }
  void judge(float candidate) {
    const float stored = nearestScale(format.scale, candidate);
    if (!std::isfinite(stored) || std::fabs(stored) < std::numeric_limits<float>::min())
      return;
    std::vector<float> errors;
    const float inverse = 1 / stored;
    for (size_t i = 0; i < x.size(); ++i) {
      const float element = code(x[i] * inverse) * stored, difference = x[i] - element;
      const float weighted = (w.empty() ? 1 : w[i]) * difference;
      errors.push_back(weighted * difference);
    }
    if (const float error = sum(errors); error < least || best == 0) {
      least = error;
      best = candidate;
    }
  }
  float scale() {
    float extreme = x[0];
    for (float v : x)
      if (std::fabs(v) > std::fabs(extreme))
        extreme = v;
    std::pair<float, float> found;
    float most = 0, inverse = 0;
    for (float step : {0.9f, 0.98f, 1.06f, 1.15f, 1.25f, 1.37f}) {
      const float own = -8 / extreme * step;
      const auto [xq, qq] = products(own);
      const float gain = qq > 0 ? xq * (xq / qq) : 0;
      if (inverse != 0 && gain <= most)
        continue;
      most = gain;
      inverse = own;
      found = {xq, qq};
    }
    judge(extreme / -8);
    judge(1 / inverse);
    for (int round = 0; round < 2 && found.second > 0; ++round) {
      judge(found.first / found.second);
      if (!std::isfinite(found.second / found.first))
        break;
      found = products(found.second / found.first);
    }
    return nearestScale(format.scale, best);
  }

  float best = 0, least = kInfinity;
};

TEST_F(QuantizeTest, searchGivesTheBitsOfPlainLoops) {
  for (int round = 0; round < 3000; ++round) {
    const size_t count = round % 3 ? 1 + random() % 150 : 128;
    std::vector<float> x = values(count, round % 2), w;
    for (float &v : x) {
      if (round % 5 == 0) // few distinct values, zeros
        v = float(int(random() % 5) - 2) * 0.25f;
      if (round % 7 == 0)
        v *= 1e30f;
    }
    for (size_t i = 0; round % 4 == 0 && i < count; ++i)
      w.push_back(random() % 9 ? std::exp(std::normal_distribution<float>(0, 2)(random)) : 0);
    const WeightFormat f =
        format(Storage::I4, std::array{Storage::F32, Storage::F16, Storage::BF16}[random() % 3]);
    Quantized q;
    q.codes.resize(count);
    q.scale = quantizeGroup(f, ScaleChoice::LeastSquares, x, w, q.codes, round % 16);
    if (q.scale == 0 || !std::isfinite(q.scale))
      continue; // for another test
    ASSERT_EQ(q.scale, (PlainSearch{f, x, w}.scale())) << round;
    for (size_t i = 0; i < count; ++i)
      ASSERT_EQ(q.codes[i], std::nearbyint(std::clamp(x[i] / q.scale, -8.0f, 7.0f)) + 8);
  }
}

TEST_F(QuantizeTest, searchIsNeverWorse) {
  for (int round = 0; round < 3000; ++round) {
    const size_t count = 1 + random() % 70;
    std::vector<float> x = values(count, round % 2);
    if (round % 3 == 0) // few distinct values, zeros
      for (float &v : x)
        v = float(int(random() % 5) - 2) * 0.25f;
    for (Storage element : {Storage::I4, Storage::I8, Storage::F8E4M3})
      for (Storage scale : {Storage::F32, Storage::F16, Storage::BF16}) {
        const WeightFormat f = format(element, scale);
        const Quantized search = quantize(f, ScaleChoice::LeastSquares, x);
        const Quantized plain = quantize(f, ScaleChoice::AbsMax, x);
        ASSERT_LE(squaredError(f, search, x), squaredError(f, plain, x) * 1.00001 + 1e-30);
        ASSERT_EQ(nearestScale(scale, search.scale), search.scale);
      }
  }
}

// Errors of what matters become smaller, at the cost of the others.
TEST_F(QuantizeTest, importanceMovesTheError) {
  const WeightFormat f = format(Storage::I4);
  double with = 0, without = 0;
  for (int round = 0; round < 50; ++round) {
    const std::vector<float> x = values(128);
    std::vector<float> w(128, 1.0f);
    for (size_t i = 0; i < 128; i += 8)
      w[i] = 300;
    with += squaredError(f, quantize(f, ScaleChoice::LeastSquares, x, w), x, w);
    without += squaredError(f, quantize(f, ScaleChoice::LeastSquares, x), x, w);
    // The same for all changes nothing.
    const std::vector<float> same(128, 4.0f);
    EXPECT_EQ(quantize(f, ScaleChoice::LeastSquares, x, same).codes,
              quantize(f, ScaleChoice::LeastSquares, x).codes);
  }
  EXPECT_LT(with, without * 0.9);
}

TEST_F(QuantizeTest, zerosAndWhatIsTooSmallOrTooLarge) {
  for (Storage element : {Storage::I4, Storage::I8, Storage::F8E4M3})
    for (ScaleChoice choice : {ScaleChoice::AbsMax, ScaleChoice::LeastSquares})
      for (Storage scale : {Storage::F32, Storage::F16, Storage::BF16}) {
        const WeightFormat f = format(element, scale);
        const std::vector<uint8_t> none(40, uint8_t(f.zero()));
        for (float small : {0.0f, -0.0f, 1e-45f, -1e-40f}) {
          const Quantized q = quantize(f, choice, std::vector<float>(40, small));
          EXPECT_EQ(q.scale, 0);
          EXPECT_EQ(q.codes, none);
        }
        // A scale for it is no float16.
        std::vector<float> large = values(40);
        large[3] = 1e38f;
        const Quantized q = quantize(f, choice, large);
        EXPECT_EQ(std::isfinite(q.scale), scale != Storage::F16);
        if (scale != Storage::F16)
          EXPECT_NEAR(dequantize(f, q.codes[3], q.scale, f.zero()) / large[3], 1, 0.26);
        // Small normal numbers are kept where the scale's type holds them.
        if (scale != Storage::F16) {
          const Quantized tiny = quantize(f, choice, std::vector<float>(40, 1e-34f));
          EXPECT_NEAR(dequantize(f, tiny.codes[0], tiny.scale, f.zero()) / 1e-34f, 1, 0.01);
        }
      }
}

// What dequantizes exactly is recovered, whatever the scale and the zero.
TEST_F(QuantizeTest, recoversCodes) {
  for (int round = 0; round < 400; ++round) {
    const Storage element = std::array{Storage::I4, Storage::I8, Storage::F8E4M3}[round % 3];
    const Storage scaleType = std::array{Storage::F32, Storage::F16, Storage::BF16}[random() % 3];
    WeightFormat f = format(element, scaleType);
    f.zeros = element == Storage::I4 && round % 2;
    const int64_t zero = f.zeros ? random() % 17 : f.zero();
    const float scale =
        round % 20 == 0 ? 0.0f : nearestScale(scaleType, 1e-4f * float(1 + random() % 5000));
    std::vector<uint8_t> codes(50), found(50);
    std::vector<float> x;
    for (uint8_t &code : codes) {
      code = element == Storage::I4 ? random() % 16 : random() % 256;
      if (element == Storage::F8E4M3 && (code & 0x7f) >= 0x7f)
        code = 0;
      if (scale == 0)
        code = element == Storage::I4 ? std::min<int64_t>(zero, 15) : f.zero();
      x.push_back(dequantize(f, code, scale, zero));
    }
    ASSERT_EQ(recoverCodes(f, scale, zero, x, found), std::nullopt);
    for (size_t i = 0; i < codes.size(); ++i) // of fp8 0 has two
      ASSERT_EQ(dequantize(f, found[i], scale, zero), dequantize(f, codes[i], scale, zero));
    if (element != Storage::F8E4M3)
      ASSERT_EQ(found, codes);

    // One that no code has.
    const size_t bad = random() % 50;
    x[bad] = element == Storage::F8E4M3 && scale != 0 ? scale * 1.07f
             : scale == 0                             ? 0.5f
             : random() % 2                           ? x[bad] + scale * 0.25f
                                                      : scale * 300;
    EXPECT_EQ(recoverCodes(f, scale, zero, x, found), bad);
  }
}

} // namespace
