// Each arithmetic instruction against plain C++, on many values.
#include "runtime/device/ptxsim/Numbers.h"
#include "runtime/device/ptxsim/TestBench.h"

#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <random>

namespace moe::ptxsim {
namespace {

constexpr size_t kThreads = 256;

template <class T> std::vector<T> samples(unsigned seed) {
  std::mt19937_64 random(seed);
  std::vector<T> values(kThreads);
  for (size_t i = 0; i < kThreads; ++i) {
    uint64_t bits = random();
    if constexpr (std::is_floating_point_v<T>) {
      values[i] = T((double(bits >> 11) / double(1ull << 53) - 0.5) * 16);
      if (i % 16 == 0)
        values[i] = T(int(i / 16) - 8);
    } else {
      values[i] = T(i % 3 == 0 ? bits : i % 3 == 1 ? bits % 64 : ~(bits % 64));
      if (i < 4)
        values[i] = T(i == 0 ? 0 : i == 1 ? -1 : uint64_t(1) << (8 * sizeof(T) - i % 2 - 1));
    }
  }
  return values;
}

std::string registerName(size_t bytes, int n) {
  return (bytes == 8 ? "%rd" : bytes == 4 ? "%r" : "%rs") + std::to_string(n);
}
template <class T> std::string bitsType() { return "b" + std::to_string(8 * sizeof(T)); }

// Runs INSTRUCTION with a result D and operands S... in each thread and compares with EXPECTED,
// whose type is erased: the code is compiled for each signature, not for each instruction.
template <class D, class... S>
void check(const std::string &instruction,
           const std::type_identity_t<std::function<D(S...)>> &expected,
           const std::string &tail = "", std::vector<S>... inputs) {
  Bench bench;
  bench.launch.block[0] = kThreads;
  std::vector<uint64_t> pointers{bench.room(kThreads * sizeof(D))};
  std::string body, names = registerName(sizeof(D), 30);
  int n = 0;
  auto load = [&]<class T>(const std::vector<T> &values) {
    pointers.push_back(bench.put(values));
    std::string address = "%rd" + std::to_string(70 + n), name = registerName(sizeof(T), 31 + n);
    ++n;
    body += "mad.wide.u32 " + address + ", %t, " + std::to_string(sizeof(T)) + ", %a" +
            std::to_string(n) + ";\nld.global." + bitsType<T>() + " " + name + ", [" + address +
            "];\n";
    names += ", " + name;
  };
  (load(inputs), ...);
  body += instruction + " " + names + tail + ";\nmad.wide.u32 %rd1, %t, " +
          std::to_string(sizeof(D)) + ", %a0;\nst.global." + bitsType<D>() + " [%rd1], " +
          registerName(sizeof(D), 30) + ";";
  auto stats = bench.run(body, pointers);
  ASSERT_TRUE(stats) << instruction << ": " << stats.error().message;
  std::vector<D> results = bench.get<D>(pointers[0], kThreads);
  for (size_t i = 0; i < kThreads; ++i) {
    D want = expected(inputs[i]...);
    using Bytes = std::array<std::byte, sizeof(D)>;
    bool same = std::bit_cast<Bytes>(results[i]) == std::bit_cast<Bytes>(want);
    if constexpr (std::is_floating_point_v<D>)
      same |= std::isnan(want) && std::isnan(results[i]);
    ASSERT_TRUE(same) << instruction << " thread " << i << ": " << +results[i] << ", expected "
                      << +want;
  }
}

template <class T> void unary(const char *name, const std::function<T(T)> &f) {
  check<T, T>(name, f, "", samples<T>(1));
}
template <class T> void binary(const char *name, const std::function<T(T, T)> &f) {
  check<T, T, T>(name, f, "", samples<T>(1), samples<T>(2));
}
template <class T> void ternary(const char *name, const std::function<T(T, T, T)> &f) {
  check<T, T, T, T>(name, f, "", samples<T>(1), samples<T>(2), samples<T>(3));
}

using S = int32_t;
using U = uint32_t;
using S64 = int64_t;
using U64 = uint64_t;

TEST(Integer, AddsAndMultiplies) {
  binary<U>("add.u32", [](U a, U b) { return a + b; });
  binary<uint16_t>("add.s16", [](U a, U b) { return a + b; });
  binary<U64>("sub.s64", [](U64 a, U64 b) { return a - b; });
  binary<S>("add.sat.s32",
            [](S64 a, S64 b) { return std::clamp<S64>(a + b, INT32_MIN, INT32_MAX); });
  binary<U>("mul.lo.s32", [](U a, U b) { return a * b; });
  binary<uint16_t>("mul.lo.u16", [](U a, U b) { return a * b; });
  binary<S>("mul.hi.s32", [](S64 a, S64 b) { return a * b >> 32; });
  binary<U64>("mul.hi.u64", [](U64 a, U64 b) { return U64((unsigned __int128)a * b >> 64); });
  check<S64, S, S>(
      "mul.wide.s32", [](S64 a, S64 b) { return a * b; }, "", samples<S>(1), samples<S>(2));
  ternary<U>("mad.lo.s32", [](U a, U b, U c) { return a * b + c; });
  check<U64, U, U, U64>(
      "mad.wide.u32", [](U64 a, U64 b, U64 c) { return a * b + c; }, "", samples<U>(1),
      samples<U>(2), samples<U64>(3));
  binary<U>("div.u32", [](U a, U b) { return b ? a / b : ~0u; });
  binary<S>("rem.s32", [](S64 a, S64 b) { return b ? a % b : a; });
  binary<S>("min.s32", [](S a, S b) { return std::min(a, b); });
  binary<U64>("max.u64", [](U64 a, U64 b) { return std::max(a, b); });
  unary<S>("abs.s32", [](S64 a) { return a < 0 ? -a : a; });
  unary<U64>("neg.s64", [](U64 a) { return 0 - a; });
  ternary<U>("sad.u32", [](U a, U b, U c) { return c + (a < b ? b - a : a - b); });
}

TEST(Integer, MovesBits) {
  binary<U>("and.b32", [](U a, U b) { return a & b; });
  binary<U64>("xor.b64", [](U64 a, U64 b) { return a ^ b; });
  unary<uint16_t>("not.b16", [](U a) { return ~a; });
  unary<U>("cnot.b32", [](U a) { return a == 0; });
  check<U, U, U>(
      "shl.b32", [](U a, U by) { return by < 32 ? a << by : 0; }, "", samples<U>(1), samples<U>(2));
  check<S64, S64, U>(
      "shr.s64", [](S64 a, U by) { return a >> std::min(by, 63u); }, "", samples<S64>(1),
      samples<U>(2));
  ternary<U>("shf.l.wrap.b32",
             [](U a, U b, U c) { return U((U64(b) << 32 | a) << (c & 31) >> 32); });
  ternary<U>("shf.r.clamp.b32",
             [](U a, U b, U c) { return U((U64(b) << 32 | a) >> std::min(c, 32u)); });
  check<U, U, U, U>(
      "lop3.b32", [](U a, U b, U c) { return (a & b) | c; }, ", 0xea", samples<U>(1), samples<U>(2),
      samples<U>(3));
  check<U, U, U>(
      "prmt.b32",
      [](U a, U b) { return (a & 255) | (b & 255) << 8 | (a & 0xff00) << 8 | (b & 0xff00) << 16; },
      ", 0x5140", samples<U>(1), samples<U>(2));
  unary<U>("popc.b32", [](U a) { return std::popcount(a); });
  check<U, U64>("clz.b64", [](U64 a) { return std::countl_zero(a); }, "", samples<U64>(1));
  check<U, S>(
      "bfind.s32", [](S a) { return std::bit_width(U(a < 0 ? ~a : a)) - 1; }, "", samples<S>(1));
  unary<U>("brev.b32", [](U a) {
    U result = 0;
    for (int i = 0; i < 32; ++i)
      result |= (a >> i & 1) << (31 - i);
    return result;
  });
  check<S, S>("bfe.s32", [](S a) { return a << 16 >> 24; }, ", 8, 8", samples<S>(1));
  check<U, U, U>(
      "bfi.b32", [](U a, U b) { return (b & ~0xff0u) | (a & 255) << 4; }, ", 4, 8", samples<U>(1),
      samples<U>(2));
  ternary<U>("dp4a.s32.s32", [](U a, U b, U c) {
    for (int i = 0; i < 32; i += 8)
      c += U(int8_t(a >> i) * int8_t(b >> i));
    return c;
  });
}

TEST(Float, RoundsOnce) {
  binary<float>("add.rn.f32", [](float a, float b) { return a + b; });
  binary<float>("sub.f32", [](float a, float b) { return a - b; });
  binary<float>("mul.rn.f32", [](float a, float b) { return a * b; });
  ternary<float>("fma.rn.f32", [](float a, float b, float c) { return std::fma(a, b, c); });
  ternary<double>("fma.rn.f64", [](double a, double b, double c) { return std::fma(a, b, c); });
  check<float, float>(
      "add.rz.f32", [](float a) { return a < 0 ? -1.0f : std::nextafter(1.0f, 2.0f); },
      ", 0f00000000", std::vector<float>(kThreads, std::nextafter(1.0f, 2.0f)));
  ternary<float>("fma.rm.f32", [](float a, float b, float c) {
    long double exact = (long double)a * b + c;
    float nearest = float(exact);
    return nearest > exact ? std::nextafter(nearest, -INFINITY) : nearest;
  });
  binary<float>("div.rn.f32", [](float a, float b) { return a / b; });
  unary<float>("sqrt.rn.f32", [](float a) { return std::sqrt(a); });
  unary<float>("ex2.approx.f32", [](float a) { return std::exp2(a); });
  binary<float>("max.f32", [](float a, float b) { return std::max(a, b); });
  unary<float>("neg.f32", [](float a) { return -a; });
  unary<float>("abs.f32", [](float a) { return std::fabs(a); });
}

// The fused multiply-add of the simulator, on operands that cancel, over- and underflow.
TEST(Float, FusesLikeTheHost) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 200000; ++i) {
    float a = std::bit_cast<float>(U(random())), b = std::bit_cast<float>(U(random()));
    float c = i % 2 ? -a * b : std::bit_cast<float>(U(random()));
    float want = std::fma(a, b, c), got = float(fusedOdd(a, b, c));
    ASSERT_TRUE(want == got || (std::isnan(want) && std::isnan(got))) << a << " " << b << " " << c;
  }
}

TEST(Packed, ComputesPairs) {
  auto each = [](auto f) {
    return [f](U a, U b, U c) {
      return U(f(a & 0xffff, b & 0xffff, c & 0xffff)) | U(f(a >> 16, b >> 16, c >> 16)) << 16;
    };
  };
  auto brains = [](unsigned seed) {
    std::vector<U> pairs;
    for (float x : samples<float>(seed))
      pairs.push_back(U(Brain::from(x).bits) | U(Brain::from(-x / 3).bits) << 16);
    return pairs;
  };
  auto value = [](U x) { return Brain{uint16_t(x)}.value(); };
  check<U, U, U, U>("fma.rn.bf16x2", each([&](U a, U b, U c) {
                      return encode(kBrain, double(value(a)) * value(b) + value(c));
                    }),
                    "", brains(1), brains(2), brains(3));
  auto add = each([&](U a, U b, U) { return encode(kBrain, double(value(a)) + value(b)); });
  check<U, U, U>("add.rn.bf16x2", [&](U a, U b) { return add(a, b, 0); }, "", brains(1), brains(2));
  auto halves = [](unsigned seed) {
    std::vector<uint16_t> values;
    for (float x : samples<float>(seed))
      values.push_back(Half::from(x).bits);
    return values;
  };
  check<uint16_t, uint16_t, uint16_t>(
      "mul.rn.f16",
      [](uint16_t a, uint16_t b) {
        return encode(kHalf, double(decode(kHalf, a)) * decode(kHalf, b));
      },
      "", halves(1), halves(2));
}

TEST(Numbers, RoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    Half half{uint16_t(bits)};
    float value = half.value();
    if (value != value)
      continue;
    ASSERT_EQ(value, decode(kHalf, bits));
    ASSERT_EQ(Half::from(value).bits, bits);
    ASSERT_EQ(encode(kHalf, value), bits);
    float brain = Brain{uint16_t(bits)}.value();
    if (brain == brain) {
      ASSERT_EQ(encode(kBrain, brain), bits);
    }
    float next = std::nextafter(value, 1e9f);
    ASSERT_EQ(Half::from(next).bits, encode(kHalf, next));
  }
  EXPECT_EQ(decode(kE4M3, 0x7e), 448);
  EXPECT_EQ(encode(kE4M3, 1000, Round::Nearest, true), 0x7eu);
  EXPECT_EQ(decode(kE4M3, 1), std::ldexp(1.0f, -9));
  EXPECT_EQ(decode(kE5M2, 0x7b), 57344);
  for (uint32_t bits = 0; bits < 0x7f; ++bits)
    EXPECT_EQ(encode(kE4M3, decode(kE4M3, bits)), bits);
}

TEST(Convert, KnowsTheFormats) {
  check<uint16_t, float>(
      "cvt.rn.bf16.f32", [](float a) { return encode(kBrain, a); }, "", samples<float>(1));
  check<uint16_t, float>(
      "cvt.rn.f16.f32", [](float a) { return encode(kHalf, a); }, "", samples<float>(1));
  check<U, float, float>(
      "cvt.rn.bf16x2.f32",
      [](float a, float b) { return encode(kBrain, a) << 16 | encode(kBrain, b); }, "",
      samples<float>(1), samples<float>(2));
  check<uint16_t, float, float>(
      "cvt.rn.satfinite.e4m3x2.f32",
      [](float a, float b) {
        return encode(kE4M3, a, Round::Nearest, true) << 8 | encode(kE4M3, b, Round::Nearest, true);
      },
      "", samples<float>(1), samples<float>(2));
  check<U, uint16_t>(
      "cvt.rn.f16x2.e4m3x2",
      [](U a) {
        return encode(kHalf, decode(kE4M3, a >> 8)) << 16 | encode(kHalf, decode(kE4M3, a & 255));
      },
      "", std::vector<uint16_t>(kThreads, 0x3cb8));
  check<S, float>("cvt.rzi.s32.f32", [](float a) { return std::trunc(a); }, "", samples<float>(1));
  check<S, float>(
      "cvt.rni.s32.f32", [](float a) { return std::nearbyint(a); }, "", samples<float>(1));
  check<float, S>("cvt.rn.f32.s32", [](S a) { return a; }, "", samples<S>(1));
  check<float, U64>("cvt.rn.f32.u64", [](U64 a) { return a; }, "", samples<U64>(1));
  check<S64, S>("cvt.s64.s32", [](S a) { return a; }, "", samples<S>(1));
  check<U, U>("cvt.s32.s8", [](U a) { return S(int8_t(a)); }, "", samples<U>(1));
  check<float, float>(
      "cvt.sat.f32.f32", [](float a) { return std::clamp(a, 0.0f, 1.0f); }, "", samples<float>(1));
  check<double, float>("cvt.f64.f32", [](float a) { return a; }, "", samples<float>(1));
  check<float, double>("cvt.rn.f32.f64", [](double a) { return a; }, "", samples<double>(1));
}

} // namespace
} // namespace moe::ptxsim
