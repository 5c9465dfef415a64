// Emulated instructions do what the manual says, on the registers and the memory that they name:
// without this, tests of kernels that are made of them would prove nothing.
#include "compiler/targets/cpu/TestInstructions.h"
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

TEST_F(InstructionsDeathTest, EndsWithItsObject) {
  instructions.reset();
  EXPECT_EXIT(call({0x0f, 0x0b}, nullptr), testing::KilledBySignal(SIGILL), "");
}

} // namespace

#endif
