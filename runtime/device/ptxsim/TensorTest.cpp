// mma.sync and ldmatrix against a plain matrix product. The fragments are laid out here from the
// tables of the PTX manual, register by register, and not by the formula of the simulator.
#include "runtime/device/ptxsim/Numbers.h"
#include "runtime/device/ptxsim/TestBench.h"

#include <functional>

namespace moe::ptxsim {
namespace {

using U = uint32_t;

// Multiplies A [16 x K] by B [K x 8] and adds C. CODES: the elements of A and B as bits, of SIZE.
struct Product {
  unsigned k, size; // bits of an element
  std::function<U(unsigned, unsigned)> a, b;

  // ROW, COLUMN of element J of register R of a lane, in A.
  std::pair<unsigned, unsigned> placeA(unsigned lane, unsigned r, unsigned j) const {
    unsigned g = lane >> 2, t = lane & 3;
    unsigned row = r == 0 || r == 2 ? g : g + 8;
    if (size == 16)
      return {row, t * 2 + j + (r >= 2 ? 8 : 0)};
    if (size == 8)
      return {row, t * 4 + j + (r >= 2 ? 16 : 0)};
    return {row, t + (r >= 2 ? 4 : 0)};
  }
  std::pair<unsigned, unsigned> placeB(unsigned lane, unsigned r, unsigned j) const {
    unsigned g = lane >> 2, t = lane & 3;
    if (size == 16)
      return {t * 2 + j + (r ? 8 : 0), g};
    if (size == 8)
      return {t * 4 + j + (r ? 16 : 0), g};
    return {t + (r ? 4 : 0), g};
  }
  std::vector<U> fragment(bool isA) const {
    unsigned each = 32 / size, registers = k / each / 4 * (isA ? 2 : 1);
    std::vector<U> words(32 * registers, 0);
    for (unsigned lane = 0; lane < 32; ++lane)
      for (unsigned r = 0; r < registers; ++r)
        for (unsigned j = 0; j < each; ++j) {
          auto [row, column] = isA ? placeA(lane, r, j) : placeB(lane, r, j);
          words[lane * registers + r] |= (isA ? a : b)(row, column) << j * size;
        }
    return words;
  }
  // The registers of D, lane by lane, with C all ONE.
  std::vector<U> run(const std::string &instruction, U one) const {
    Bench bench;
    bench.launch.block[0] = 32;
    std::vector<U> fa = fragment(true), fb = fragment(false);
    uint64_t out = bench.room(32 * 16), pa = bench.put(fa), pb = bench.put(fb);
    unsigned na = unsigned(fa.size() / 32), nb = unsigned(fb.size() / 32);
    std::string body = "mov.b32 %r20, " + std::to_string(one) + ";\n", la, lb;
    for (unsigned r = 0; r < na; ++r) {
      body += "mad.wide.u32 %rd1, %t, " + std::to_string(4 * na) + ", %a1; ld.global.b32 %r" +
              std::to_string(r) + ", [%rd1+" + std::to_string(4 * r) + "];\n";
      la += (r ? ", %r" : "%r") + std::to_string(r);
    }
    for (unsigned r = 0; r < nb; ++r) {
      body += "mad.wide.u32 %rd2, %t, " + std::to_string(4 * nb) + ", %a2; ld.global.b32 %r1" +
              std::to_string(r) + ", [%rd2+" + std::to_string(4 * r) + "];\n";
      lb += (r ? ", %r1" : "%r1") + std::to_string(r);
    }
    body += instruction + " {%r30, %r31, %r32, %r33}, {" + la + "}, {" + lb +
            "}, {%r20, %r20, %r20, %r20};\nmad.wide.u32 %rd3, %t, 16, %a0;\n"
            "st.global.v4.b32 [%rd3], {%r30, %r31, %r32, %r33};";
    auto stats = bench.run(body, {out, pa, pb});
    EXPECT_TRUE(stats) << stats.error().message;
    return stats ? bench.get<U>(out, 128) : std::vector<U>(128);
  }
};

void checkProduct(const Product &product, const std::string &instruction, const Format &format) {
  auto words = product.run(instruction, 0x3f800000);
  auto value = [&](U bits) {
    return product.size == 32 ? std::bit_cast<float>(bits) : decode(format, bits);
  };
  for (unsigned lane = 0; lane < 32; ++lane)
    for (unsigned r = 0; r < 4; ++r) {
      unsigned row = (lane >> 2) + (r < 2 ? 0 : 8), column = (lane & 3) * 2 + (r & 1);
      float want = 1; // small integers: exact in any order
      for (unsigned k = 0; k < product.k; ++k)
        want += value(product.a(row, k)) * value(product.b(k, column));
      EXPECT_EQ(std::bit_cast<float>(words[lane * 4 + r]), want) << instruction << " " << lane;
    }
}

float entry(unsigned row, unsigned column, unsigned salt) {
  return float(int((row * 7 + column * 5 + salt) % 9) - 4);
}

TEST(Tensor, MultipliesFloats) {
  struct Case {
    unsigned k, size;
    const char *instruction;
    Format format;
  };
  const Case cases[] = {
      {16, 16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", kBrain},
      {16, 16, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", kHalf},
      {8, 16, "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", kBrain},
      {8, 16, "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32", kHalf},
      {8, 32, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", kTF32},
      {32, 8, "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32", kE4M3},
      {32, 8, "mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e5m2.f32", kE5M2},
  };
  for (const Case &c : cases) {
    auto bits = [&](float x) {
      return c.size == 32 ? std::bit_cast<U>(x) : U(encode(c.format, x));
    };
    checkProduct({c.k, c.size, [&](unsigned m, unsigned k) { return bits(entry(m, k, 1)); },
                  [&](unsigned k, unsigned n) { return bits(entry(k, n, 2)); }},
                 c.instruction, c.format);
  }
}

TEST(Tensor, MultipliesIntegers) {
  for (unsigned k : {16u, 32u})
    for (bool isSigned : {true, false}) {
      auto a = [](unsigned m, unsigned i) { return U(m * 37 + i * 11) & 255; };
      auto b = [](unsigned i, unsigned n) { return U(n * 91 + i * 29 + 5) & 255; };
      std::string type = isSigned ? "s8" : "u8";
      auto words = Product{k, 8, a, b}.run("mma.sync.aligned.m16n8k" + std::to_string(k) +
                                               ".row.col.s32." + type + "." + type + ".s32",
                                           7);
      auto value = [&](U x) { return isSigned ? int(int8_t(x)) : int(x); };
      for (unsigned lane = 0; lane < 32; ++lane)
        for (unsigned r = 0; r < 4; ++r) {
          unsigned row = (lane >> 2) + (r < 2 ? 0 : 8), column = (lane & 3) * 2 + (r & 1);
          int want = 7;
          for (unsigned i = 0; i < k; ++i)
            want += value(a(row, i)) * value(b(i, column));
          EXPECT_EQ(int(words[lane * 4 + r]), want);
        }
    }
}

TEST(Tensor, LoadsMatrices) {
  for (bool transposed : {false, true}) {
    Bench bench;
    bench.launch.block[0] = 32;
    std::vector<uint16_t> matrices(256);
    for (unsigned i = 0; i < 256; ++i)
      matrices[i] = uint16_t(i);
    uint64_t in = bench.put(matrices), out = bench.room(512), back = bench.room(512);
    std::string trans = transposed ? ".trans" : "";
    bench.expectRun(R"(
      .shared .align 16 .b8 tile[512]; .shared .align 16 .b8 copy[512];
      mad.wide.u32 %rd1, %t, 16, %a1; ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd1];
      mov.u32 %r5, tile; shl.b32 %r6, %t, 4; add.u32 %r7, %r5, %r6;
      st.shared.v4.b32 [%r7], {%r1, %r2, %r3, %r4}; bar.warp.sync -1;
      ldmatrix.sync.aligned.m8n8.x4)" +
                        trans + R"(.shared.b16 {%r7, %r8, %r9, %r10}, [%r7];
      mad.wide.u32 %rd2, %t, 16, %a0; st.global.v4.b32 [%rd2], {%r7, %r8, %r9, %r10};
      mov.u32 %r11, copy; add.u32 %r11, %r11, %r6;
      stmatrix.sync.aligned.m8n8.x4)" +
                        trans +
                        R"(.shared.b16 [%r11], {%r7, %r8, %r9, %r10}; bar.warp.sync -1;
      ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r11];
      mad.wide.u32 %rd3, %t, 16, %a2; st.global.v4.b32 [%rd3], {%r1, %r2, %r3, %r4};)",
                    {out, in, back});
    auto values = bench.get<uint16_t>(out, 256);
    for (unsigned lane = 0; lane < 32; ++lane)
      for (unsigned m = 0; m < 4; ++m)
        for (unsigned j = 0; j < 2; ++j) {
          unsigned row = lane / 4, column = 2 * (lane % 4) + j;
          if (transposed)
            std::swap(row, column);
          EXPECT_EQ(values[lane * 8 + m * 2 + j], m * 64 + row * 8 + column);
        }
    EXPECT_EQ(bench.get<uint16_t>(back, 256), matrices);
  }
}

} // namespace
} // namespace moe::ptxsim
