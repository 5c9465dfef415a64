// Emulated instructions do what the manual says, on the registers and the memory that they name:
// without this, tests of kernels that are made of them would prove nothing.
#include "compiler/targets/cpu/TestInstructions.h"
#include "runtime/device/cpu/CpuFeatures.h"
#include "llvm/ADT/STLExtras.h"
#include <array>
#include <csignal>
#include <cstring>
#include <gtest/gtest.h>
#include <optional>
#include <sys/mman.h>
#include <vector>

using namespace moe;
using namespace moe::codegen;

#if defined(__x86_64__)

namespace {

using Code = std::vector<uint8_t>;

class InstructionsTest : public testing::Test {
protected:
  void SetUp() override {
    if (std::string missing = EmulatedInstructions::missing(); !missing.empty())
      GTEST_SKIP() << missing;
    instructions.emplace();
  }
  // Calls code with two pointers, in rdi and rsi.
  static void call(Code code, void *first, void *second = nullptr) {
    code.push_back(0xc3); // ret
    void *at = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(at, MAP_FAILED);
    memcpy(at, code.data(), code.size());
    ASSERT_EQ(mprotect(at, 4096, PROT_READ | PROT_EXEC), 0);
    reinterpret_cast<void (*)(void *, void *)>(at)(first, second);
    munmap(at, 4096);
  }

  // Where the processor has them nothing traps, and these tests are of the processor.
  const bool hasTiles = llvm::is_contained(cpu::hostFeatures(), "amx_tile");
  std::optional<EmulatedInstructions> instructions;
};

// What VPDPBUSD works on: sums, unsigned bytes, signed bytes, which are loaded to the registers 1,
// 2 and 3, or for the second half of the registers to 9, 10 and 11.
struct Dot {
  std::array<int32_t, 8> sums;
  std::array<uint8_t, 32> unsignedBytes;
  std::array<int8_t, 32> signedBytes;

  Dot() {
    for (int i = 0; i < 32; ++i) {
      unsignedBytes[i] = uint8_t(255 - 9 * i);
      signedBytes[i] = int8_t(7 * i - 128);
    }
    for (int i = 0; i < 8; ++i)
      sums[i] = 1000 * i - 3000;
    sums[7] = INT32_MAX; // sums wrap
  }
  std::array<int32_t, 8> result(size_t lanes = 8) const {
    std::array<int32_t, 8> result{};
    for (size_t i = 0; i < lanes; ++i) {
      uint32_t sum = uint32_t(sums[i]);
      for (size_t c = i * 4; c < i * 4 + 4; ++c)
        sum += uint32_t(int32_t(unsignedBytes[c]) * signedBytes[c]);
      result[i] = int32_t(sum);
    }
    return result;
  }
};

// vmovdqu ymm1, [rdi]; vmovdqu ymm2, [rdi + 32]; vmovdqu ymm3, [rdi + 64]
const Code kLoad{0xc5, 0xfe, 0x6f, 0x0f, 0xc5, 0xfe, 0x6f,
                 0x57, 0x20, 0xc5, 0xfe, 0x6f, 0x5f, 0x40};
// vmovdqu [rdi], ymm1; vzeroupper
const Code kStore{0xc5, 0xfe, 0x7f, 0x0f, 0xc5, 0xf8, 0x77};

Code operator+(Code a, const Code &b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST_F(InstructionsTest, DotsUnsignedWithSignedBytes) {
  Dot dot;
  const auto want = dot.result();
  call(kLoad + Code{0xc4, 0xe2, 0x6d, 0x50, 0xcb} + kStore, &dot); // vpdpbusd ymm1, ymm2, ymm3
  EXPECT_EQ(dot.sums, want);
}

TEST_F(InstructionsTest, DotsInTheUpperRegisters) {
  Dot dot;
  const auto want = dot.result();
  // The same with ymm9, ymm10 and ymm11.
  call(Code{0xc5, 0x7e, 0x6f, 0x0f, 0xc5, 0x7e, 0x6f, 0x57, 0x20, 0xc5, 0x7e, 0x6f, 0x5f,
            0x40, 0xc4, 0x42, 0x2d, 0x50, 0xcb, 0xc5, 0x7e, 0x7f, 0x0f, 0xc5, 0xf8, 0x77},
       &dot);
  EXPECT_EQ(dot.sums, want);
}

TEST_F(InstructionsTest, NarrowDotsClearTheUpperHalf) {
  Dot dot;
  const auto want = dot.result(4);
  call(kLoad + Code{0xc4, 0xe2, 0x69, 0x50, 0xcb} + kStore, &dot); // vpdpbusd xmm1, xmm2, xmm3
  EXPECT_EQ(dot.sums, want);
}

TEST_F(InstructionsTest, FindsOperandsInMemory) {
  const Code addresses[] = {
      {0xc4, 0xe2, 0x6d, 0x50, 0x4f, 0x40},                         // [rdi + 64]
      {0xc4, 0xe2, 0x6d, 0x50, 0x8f, 0x40, 0x00, 0x00, 0x00},       // as four bytes
      {0xc4, 0xe2, 0x6d, 0x50, 0x0e},                               // [rsi]
      {0x31, 0xc0, 0xb0, 0x20, 0xc4, 0xe2, 0x6d, 0x50, 0x0c, 0x47}, // rax = 32; [rdi + 2 * rax]
  };
  for (const Code &address : addresses) {
    Dot dot;
    const auto want = dot.result();
    call(kLoad + address + kStore, &dot, &dot.signedBytes);
    EXPECT_EQ(dot.sums, want);
  }
}

TEST_F(InstructionsTest, FindsConstantsBesideTheCode) {
  Dot dot;
  const auto want = dot.result();
  // vpdpbusd ymm1, ymm2, [rip + 8]: past the seven bytes of kStore and the return
  Code code = kLoad + Code{0xc4, 0xe2, 0x6d, 0x50, 0x0d, 0x08, 0x00, 0x00, 0x00} + kStore;
  code.push_back(0xc3);
  for (int8_t byte : dot.signedBytes)
    code.push_back(uint8_t(byte));
  call(code, &dot);
  EXPECT_EQ(dot.sums, want);
}

TEST_F(InstructionsTest, SeesUpperHalvesThatAreUnused) {
  Dot dot;
  dot.unsignedBytes.fill(0);
  const auto want = dot.sums;
  // vzeroall, so that the processor need not save the registers; vpdpbusd ymm1, ymm2, ymm3, and as
  // sums of zero the operand's sums
  call(Code{0xc5, 0xfc, 0x77, 0xc4, 0xe2, 0x6d, 0x50, 0xcb, 0xc5, 0xf5, 0xfe, 0x0f} + kStore, &dot);
  EXPECT_EQ(dot.sums, want);
}

//===--- AMX ---------------------------------------------------------------------------------------

// A configuration of tiles, as LDTILECFG reads it.
struct TileConfig {
  uint8_t bytes[64] = {1};

  TileConfig &tile(int number, uint8_t rows, uint8_t rowBytes) {
    bytes[16 + 2 * number] = rowBytes;
    bytes[48 + number] = rows;
    return *this;
  }
};

// ldtilecfg [rdi]; tilerelease
const Code kConfigure{0xc4, 0xe2, 0x78, 0x49, 0x07}, kRelease{0xc4, 0xe2, 0x78, 0x49, 0xc0};
// From rsi, with rows 64 bytes apart: mov eax, 64; tileloadd tmm0, [rsi + rax]; tileloadd tmm4,
// [rsi + rax + 1024]; tileloadd tmm6, [rsi + rax + 2048]
const Code kLoadTiles{0xb8, 0x40, 0x00, 0x00, 0x00, 0xc4, 0xe2, 0x7b, 0x4b, 0x04, 0x06,
                      0xc4, 0xe2, 0x7b, 0x4b, 0xa4, 0x06, 0x00, 0x04, 0x00, 0x00, 0xc4,
                      0xe2, 0x7b, 0x4b, 0xb4, 0x06, 0x00, 0x08, 0x00, 0x00};
// tilestored [rsi + rax], tmm0
const Code kStoreTile{0xc4, 0xe2, 0x7a, 0x4b, 0x04, 0x06};
const Code kDotFloats{0xc4, 0xe2, 0x4a, 0x5c, 0xc4}; // tdpbf16ps tmm0, tmm4, tmm6
const Code kDotCodes{0xc4, 0xe2, 0x4a, 0x5e, 0xc4};  // tdpbsud tmm0, tmm4, tmm6

// Three tiles with rows of 64 bytes: sums, activations, weights.
template <class Sum, class X, class W> struct Memory {
  Sum sums[16][16];
  X x[16][64 / sizeof(X)];
  W w[16][64 / sizeof(W)];
};

TEST_F(InstructionsTest, MultipliesTilesOfCodes) {
  // 3 tokens by 5 rows of the panel, 8 codes.
  TileConfig config = TileConfig().tile(0, 3, 20).tile(4, 3, 8).tile(6, 2, 20);
  Memory<int32_t, int8_t, uint8_t> m;
  for (int row = 0; row < 16; ++row)
    for (int i = 0; i < 64; ++i) {
      m.sums[row][i / 4] = 1000 * row - i / 4;
      m.x[row][i] = int8_t(37 * row + 11 * i - 128);
      m.w[row][i] = uint8_t(255 - 29 * row - 7 * i);
    }
  Memory<int32_t, int8_t, uint8_t> want = m;
  for (int t = 0; t < 3; ++t)
    for (int n = 0; n < 5; ++n)
      for (int k = 0; k < 8; ++k)
        want.sums[t][n] += m.x[t][k] * m.w[k / 4][n * 4 + k % 4];
  call(kConfigure + kLoadTiles + kDotCodes + kStoreTile, &config, &m);
  EXPECT_EQ(EmulatedInstructions::holdTiles(), !hasTiles);
  EXPECT_EQ(0, memcmp(&m, &want, sizeof m)); // nothing beyond the tile was written
  call(kRelease, nullptr);
  EXPECT_FALSE(EmulatedInstructions::holdTiles());
}

uint16_t bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return uint16_t(bits >> 16);
}

// Even and odd products are summed apart, each rounded once, and then added to what was there.
TEST_F(InstructionsTest, MultipliesTilesOfFloats) {
  TileConfig config = TileConfig().tile(0, 2, 8).tile(4, 2, 12).tile(6, 3, 8);
  Memory<float, uint16_t, uint16_t> m{};
  const float x[2][6] = {{1, 0x1p24f, 1, -0x1p24f, 1, 1}, {3, 5, 7, 0.5, 0.25, -2}};
  for (int t = 0; t < 2; ++t)
    for (int k = 0; k < 6; ++k)
      m.x[t][k] = bf16(x[t][k]);
  for (int k = 0; k < 6; ++k) {
    m.w[k / 2][k % 2] = bf16(1);            // row 0 of the panel
    m.w[k / 2][2 + k % 2] = bf16(k + 2.0f); // row 1
  }
  m.sums[0][0] = 0.5f;
  call(kConfigure + kLoadTiles + kDotFloats + kStoreTile + kRelease, &config, &m);
  // Even: 1 + 1 + 1. Odd: 2^24 - 2^24 + 1. In the order of columns 2^24 would swallow ones.
  EXPECT_EQ(m.sums[0][0], 0.5f + 4);
  EXPECT_EQ(m.sums[1][0], 3 + 7 + 0.25f + 5 + 0.5f - 2);
  EXPECT_EQ(m.sums[1][1], 3 * 2 + 7 * 4 + 0.25f * 6 + 5 * 3 + 0.5f * 5 - 2 * 7);
}

TEST_F(InstructionsTest, TilesOfFloatsHaveNoDenormals) {
  TileConfig config = TileConfig().tile(0, 1, 4).tile(4, 1, 8).tile(6, 2, 4);
  Memory<float, uint16_t, uint16_t> m{};
  m.sums[0][0] = -0x1p-130f;                              // counts as zero
  m.x[0][0] = bf16(0x1p-70f), m.w[0][0] = bf16(0x1p-70f); // too small a product
  m.x[0][1] = bf16(0x1p-130f), m.w[0][1] = bf16(0x1p10f); // too small a factor
  m.x[0][2] = bf16(0x1p-100f), m.w[1][0] = bf16(1);
  call(kConfigure + kLoadTiles + kDotFloats + kStoreTile + kRelease, &config, &m);
  EXPECT_EQ(m.sums[0][0], 0x1p-100f);
}

TEST_F(InstructionsTest, ZeroesTiles) {
  TileConfig config = TileConfig().tile(0, 16, 64).tile(4, 16, 64).tile(6, 16, 64);
  Memory<int32_t, int8_t, uint8_t> m;
  memset(&m, 1, sizeof m);
  // tilezero tmm0
  call(kConfigure + kLoadTiles + Code{0xc4, 0xe2, 0x7b, 0x49, 0xc0} + kStoreTile + kRelease,
       &config, &m);
  for (auto &row : m.sums)
    for (int32_t sum : row)
      EXPECT_EQ(sum, 0);
  EXPECT_EQ(m.x[0][0], 1);
}

using InstructionsDeathTest = InstructionsTest;

TEST_F(InstructionsDeathTest, SayWhatNobodyKnows) {
  // ud2; an opcode and a prefix that no processor has
  for (const Code &code :
       {Code{0x0f, 0x0b}, Code{0xc4, 0xe2, 0x6d, 0xff, 0xcb}, Code{0xc4, 0xe2, 0xed, 0x50, 0xcb}}) {
    char bytes[16];
    snprintf(bytes, sizeof bytes, "%02x %02x", code[0], code[1]);
    EXPECT_EXIT(call(code, nullptr), testing::ExitedWithCode(1),
                std::string("has the instruction: ") + bytes);
  }
}

// What would fault on a processor with AMX, which ends the process otherwise.
TEST_F(InstructionsDeathTest, SayHowTilesAreMisused) {
  if (hasTiles)
    GTEST_SKIP() << "this processor has AMX";
  Memory<int32_t, int8_t, uint8_t> m{};
  auto dies = [&](TileConfig config, const Code &code, const std::string &why) {
    EXPECT_EXIT(call(kConfigure + code, &config, &m), testing::ExitedWithCode(1), why);
  };
  TileConfig reserved, palette;
  reserved.bytes[40] = 1;
  palette.bytes[0] = 2;
  dies(reserved, {}, "reserved is not zero");
  dies(palette, {}, "palette is not 1");
  dies(TileConfig().tile(3, 17, 64), {}, "larger than 16 rows of 64 bytes");
  dies(TileConfig().tile(3, 16, 68), {}, "larger than 16 rows of 64 bytes");
  dies(TileConfig().tile(3, 1, 0), {}, "rows or with columns alone");
  dies(TileConfig().tile(0, 3, 20), kLoadTiles, "not configured");
  const TileConfig good = TileConfig().tile(0, 3, 20).tile(4, 3, 8).tile(6, 2, 20);
  dies(good, kLoadTiles + kRelease + kDotCodes, "not configured");
  dies(TileConfig(good).tile(6, 3, 20), kLoadTiles + kDotCodes, "do not fit");
  dies(TileConfig(good).tile(4, 2, 8), kLoadTiles + kDotFloats, "do not fit");
  // tdpbsud tmm0, tmm4, tmm4
  dies(good, kLoadTiles + Code{0xc4, 0xe2, 0x5a, 0x5e, 0xc4}, "twice");
  // tileloadd tmm0, [rsi] without an index
  dies(good, {0xc4, 0xe2, 0x7b, 0x4b, 0x06}, "no index");
}

TEST_F(InstructionsDeathTest, EndsWithItsObject) {
  instructions.reset();
  EXPECT_EXIT(call({0x0f, 0x0b}, nullptr), testing::KilledBySignal(SIGILL), "");
}

} // namespace

#endif
