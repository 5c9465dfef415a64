// wgmma in every layout of shared memory, compared with plain loops.
#include "runtime/device/ptxsim/Numbers.h"
#include "runtime/device/ptxsim/TestBench.h"

#include <cstring>
#include <random>

namespace moe::ptxsim {
namespace {

using U = uint32_t;

uint16_t brain(float value) { return uint16_t(std::bit_cast<U>(value) >> 16); }

struct Case {
  unsigned columns, swizzle; // bytes
  bool transposed;
  bool fromRegisters = false;
  std::string a = "bf16", b = "bf16";

  bool whole() const { return a == "s8" || a == "u8"; }
  unsigned depth() const { return a == "bf16" ? 16 : 32; }
  uint32_t encode(const std::string &type, float value) const {
    return type == "bf16"   ? brain(value)
           : type == "e4m3" ? ptxsim::encode(kE4M3, value)
           : type == "e5m2" ? ptxsim::encode(kE5M2, value)
                            : uint8_t(int(value));
  }
};

// Where the element of a matrix of ROWS by 16 lies, in bytes, and what its descriptor says.
struct Layout {
  unsigned swizzle;
  bool transposed;
  unsigned leading, stride;

  Layout(unsigned rows, unsigned swizzle, bool transposed)
      : swizzle(swizzle), transposed(transposed) {
    if (!swizzle) {
      leading = rows * 16; // of blocks of 8 by 8: next k
      stride = 128;        // next rows
    } else {
      leading = transposed ? swizzle * 16 : 16; // next columns of the pattern
      stride = 8 * swizzle;                     // next 8 rows, or next 8 k
    }
  }
  unsigned place(unsigned row, unsigned k) const {
    unsigned line = transposed ? k : row, inLine = transposed ? row : k;
    if (!swizzle)
      return (row / 8) * stride + (k / 8) * leading + line % 8 * 16 + inLine % 8 * 2;
    unsigned perLine = swizzle / 2, pattern = inLine / perLine;
    unsigned byte = inLine % perLine * 2, chunk = byte / 16, perRow = 128 / swizzle;
    chunk ^= line / perRow % (swizzle / 16); // as many lines share 128 bytes
    return pattern * leading + line * swizzle + chunk * 16 + byte % 16;
  }
  uint64_t descriptor() const {
    uint64_t mode = swizzle == 128 ? 1 : swizzle == 64 ? 2 : swizzle == 32 ? 3 : 0;
    return uint64_t(leading / 16) << 16 | uint64_t(stride / 16) << 32 | mode << 62;
  }
};

constexpr unsigned kOfB = 8192, kShared = 8192 + 32768;

std::string kernel(const Case &c, const std::string &proxy = "fence.proxy.async;",
                   const std::string &fence = "wgmma.fence.sync.aligned;",
                   const std::string &commit = "wgmma.commit_group.sync.aligned;",
                   const std::string &wait = "wgmma.wait_group.sync.aligned 0;",
                   const std::string &before = "", unsigned products = 1) {
  unsigned results = c.columns / 2;
  std::string d = "{";
  for (unsigned r = 0; r < results; ++r)
    d += (r ? ", %d" : "%d") + std::to_string(r);
  d += "}";
  std::string body = ".reg .b32 %d<128>; .reg .b32 %x<4>; .shared .align 1024 .b8 tiles[" +
                     std::to_string(kShared) + "];\n";
  body += "mov.u32 %r1, tiles; mad.lo.u32 %r2, %t, 16, %r1; mad.wide.u32 %rd1, %t, 16, %a1;\n"
          "mov.u32 %r3, 0;\nCOPY: ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd1];\n"
          "st.shared.v4.b32 [%r2], {%r4, %r5, %r6, %r7}; add.u32 %r2, %r2, 2048;\n"
          "add.u64 %rd1, %rd1, 2048; add.u32 %r3, %r3, 2048;\n"
          "setp.lt.u32 %p1, %r3, " +
          std::to_string(kShared) + "; @%p1 bra COPY;\n" + proxy + " bar.sync 0;\n";
  body += "shr.u32 %r8, %r1, 4; cvt.u64.u32 %rd2, %r8; add.u64 %rd3, %rd2, %a2;\n"
          "add.u64 %rd4, %rd2, %a3; add.u64 %rd4, %rd4, " +
          std::to_string(kOfB / 16) +
          ";\nmad.wide.u32 %rd5, %t, 16, %a4;\n"
          "ld.global.v4.b32 {%x0, %x1, %x2, %x3}, [%rd5]; setp.ne.u32 %p2, %r1, 0;\n";
  for (unsigned r = 0; r < results; ++r)
    body += "mov.b32 %d" + std::to_string(r) + (c.whole() ? ", 1;\n" : ", 0f3F800000;\n");
  body += fence + "\n";
  std::string flags = c.whole() ? "" : ", 1, 1";
  if (c.depth() == 16)
    flags += std::string(c.fromRegisters ? ""
                         : c.transposed  ? ", 1"
                                         : ", 0") +
             (c.transposed ? ", 1" : ", 0");
  for (unsigned n = 0; n < products; ++n)
    body += "wgmma.mma_async.sync.aligned.m64n" + std::to_string(c.columns) + "k" +
            std::to_string(c.depth()) + (c.whole() ? ".s32." : ".f32.") + c.a + "." + c.b + " " +
            d + ", " + (c.fromRegisters ? "{%x0, %x1, %x2, %x3}" : "%rd3") + ", %rd4, %p2" + flags +
            ";\n";
  body += commit + " " + before + " " + wait + "\n";
  body += "mad.lo.u32 %r9, %t, " + std::to_string(results * 4) +
          ", 0; cvt.u64.u32 %rd6, %r9; add.u64 %rd6, %rd6, %a0;\n";
  for (unsigned r = 0; r < results; ++r)
    body += "st.global.b32 [%rd6+" + std::to_string(4 * r) + "], %d" + std::to_string(r) + ";\n";
  return body;
}

struct WgmmaTest : testing::Test {
  Bench bench;
  std::vector<float> a, b;
  std::vector<uint64_t> pointers;

  void prepare(const Case &c) {
    std::mt19937 random(c.columns + c.swizzle);
    auto values = [&](size_t count, const std::string &type) {
      std::vector<float> result(count);
      for (float &value : result)
        value = type == "u8"   ? float(random() % 256)
                : type == "s8" ? float(int(random() % 256) - 128)
                               : float(int(random() % 17) - 8);
      return result;
    };
    unsigned depth = c.depth(), bytes = 32 / depth;
    a = values(64 * depth, c.a), b = values(c.columns * depth, c.b);
    Layout ofA(64, c.swizzle, c.transposed), ofB(c.columns, c.swizzle, c.transposed);
    std::vector<uint8_t> image(kShared);
    auto put = [&](unsigned start, const Layout &layout, const std::string &type, unsigned row,
                   unsigned k, float value) { // layouts count in 16 bits
      uint32_t bits = c.encode(type, value);
      std::memcpy(&image[start + layout.place(row, k * bytes / 2) + k * bytes % 2], &bits, bytes);
    };
    for (unsigned row = 0; row < 64; ++row)
      for (unsigned k = 0; k < depth; ++k)
        put(0, ofA, c.a, row, k, a[row * depth + k]);
    for (unsigned row = 0; row < c.columns; ++row)
      for (unsigned k = 0; k < depth; ++k)
        put(kOfB, ofB, c.b, row, k, b[row * depth + k]);
    std::vector<U> fragments(128 * 4);
    for (unsigned t = 0; t < 128; ++t)
      for (unsigned r = 0; r < 4; ++r)
        for (unsigned e = 0; e < 4 / bytes; ++e) {
          unsigned row = t / 32 * 16 + t % 32 / 4 + 8 * (r & 1);
          unsigned k = (t % 4 + 4 * (r >> 1)) * 4 / bytes + e;
          fragments[t * 4 + r] |= c.encode(c.a, a[row * depth + k]) << 8 * bytes * e;
        }
    bench.launch.block[0] = 128;
    pointers = {bench.room(64 * c.columns * 4), bench.put(image), ofA.descriptor(),
                ofB.descriptor(), bench.put(fragments)};
  }
  void expectProduct(const Case &c, float products = 1) {
    auto d = bench.get<U>(pointers[0], 64 * c.columns);
    unsigned depth = c.depth();
    for (unsigned t = 0; t < 128; ++t)
      for (unsigned r = 0; r < c.columns / 2; ++r) {
        unsigned row = t / 32 * 16 + t % 32 / 4 + 8 * (r >> 1 & 1);
        unsigned column = 8 * (r >> 2) + 2 * (t % 4) + (r & 1);
        float sum = 0;
        for (unsigned k = 0; k < depth; ++k)
          sum += a[row * depth + k] * b[column * depth + k];
        U bits = d[t * (c.columns / 2) + r];
        ASSERT_EQ(c.whole() ? float(int(bits)) : std::bit_cast<float>(bits), 1 + products * sum)
            << "thread " << t << " register " << r << " of n" << c.columns << " swizzle "
            << c.swizzle << (c.transposed ? " transposed " : " ") << c.a << " " << c.b;
      }
  }
};

TEST_F(WgmmaTest, EveryLayout) {
  for (unsigned columns : {8u, 64u, 256u})
    for (unsigned swizzle : {0u, 32u, 64u, 128u})
      for (bool transposed : {false, true}) {
        Case c{columns, swizzle, transposed};
        // A pattern of swizzled columns is at least as wide as it.
        if (transposed && columns * 2 < swizzle)
          continue;
        prepare(c);
        bench.expectRun(kernel(c), pointers);
        expectProduct(c);
      }
}

TEST_F(WgmmaTest, FromRegistersAndInSequence) {
  Case c{32, 64, false, true};
  prepare(c);
  bench.expectRun(kernel(c), pointers);
  expectProduct(c);
  prepare(c);
  bench.expectRun(kernel(c, "fence.proxy.async;", "wgmma.fence.sync.aligned;",
                         "wgmma.commit_group.sync.aligned;", "wgmma.wait_group.sync.aligned 0;", "",
                         3),
                  pointers);
  expectProduct(c, 3);
}

TEST_F(WgmmaTest, EightBits) {
  for (auto [ofA, ofB] : {std::pair("e4m3", "e4m3"), std::pair("e4m3", "e5m2"),
                          std::pair("e5m2", "e5m2"), std::pair("s8", "s8"), std::pair("u8", "s8")})
    for (unsigned swizzle : {0u, 32u, 64u, 128u})
      for (bool fromRegisters : {false, true}) {
        Case c{swizzle == 64 ? 24u : 48u, swizzle, false, fromRegisters, ofA, ofB};
        prepare(c);
        bench.expectRun(kernel(c), pointers);
        expectProduct(c);
      }
}

TEST_F(WgmmaTest, FormsThatDoNotExist) {
  for (const Case &c :
       {Case{40, 128, false, false, "s8", "s8"}, Case{40, 128, false, false, "e4m3", "s8"},
        Case{40, 128, false, false, "bf16", "f16"}}) {
    prepare(c);
    bench.expectError(kernel(c), pointers, "this form of 'wgmma' is not simulated");
  }
}

TEST_F(WgmmaTest, MissingFencesAndWaits) {
  const char *proxy = "fence.proxy.async;", *fence = "wgmma.fence.sync.aligned;",
             *commit = "wgmma.commit_group.sync.aligned;",
             *wait = "wgmma.wait_group.sync.aligned 0;";
  Case c{16, 128, false};
  auto expect = [&](const std::string &body, const char *message) {
    prepare(c);
    bench.expectError(body, pointers, message);
  };
  expect(kernel(c, "", fence, commit, wait), "without a fence.proxy.async in between");
  expect(kernel(c, proxy, "", commit, wait), "no wgmma.fence was executed");
  expect(kernel(c, proxy, std::string(fence) + " mov.f32 %d1, 0f00000000;", commit, wait),
         "was written after the last wgmma.fence");
  expect(kernel(c, proxy, fence, "", wait), "in flight: a wait is missing");
  expect(kernel(c, proxy, fence, commit, ""), "in flight: a wait is missing");
  expect(kernel(c, proxy, fence, commit, "wgmma.wait_group.sync.aligned 1;"),
         "in flight: a wait is missing");
  expect(kernel(c, proxy, fence, commit, wait, "mov.f32 %d1, 0f00000000;"),
         "was written while the product");
  expect(kernel(c, proxy, fence, commit, wait,
                "setp.eq.u32 %p3, %t, 0; @%p3 st.shared.u32 [tiles], %t;"),
         "which an asynchronous copy is still reading");
}

} // namespace
} // namespace moe::ptxsim
