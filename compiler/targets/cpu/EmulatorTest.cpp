// The emulated processor does run the code that it is given, and tells when that does wrong:
// without this, tests of kernels on it would prove nothing.
#include "compiler/targets/cpu/TestEmulator.h"
#include <gtest/gtest.h>

using namespace moe::codegen;

namespace {

class EmulatorTest : public testing::Test {
protected:
  void SetUp() override {
    std::string missing;
    emulator = Emulator::aarch64(missing);
    if (!emulator)
      GTEST_SKIP() << missing;
  }
  // Runs a kernel that is given as instructions, with one operand.
  uint32_t run(const std::vector<uint32_t> &code, std::vector<int32_t> &operand,
               int32_t workers = 1) {
    uint64_t kernel = emulator->load(
        {reinterpret_cast<const char *>(code.data()), code.size() * sizeof(uint32_t)});
    EXPECT_NE(kernel, 0u);
    Buffer buffers[] = {operand};
    return emulator->run(kernel, buffers, {.workers = workers, .scratchBytes = 64}, death);
  }

  std::unique_ptr<Emulator> emulator;
  std::string death;
};

constexpr uint32_t kLoadOperand = 0xf940'0009; // ldr x9, [x0]
constexpr uint32_t kReturn = 0xd65f'03c0;      // ret

TEST_F(EmulatorTest, RunsArmInstructions) {
  // ldr w10, [x9]; add w10, w10, #42; str w10, [x9]
  std::vector<uint32_t> code{kLoadOperand, 0xb940'012a, 0x1100'a94a, 0xb900'012a, kReturn};
  std::vector<int32_t> operand{100, 7};
  EXPECT_EQ(run(code, operand, 3), 0u);
  EXPECT_EQ(operand, (std::vector<int32_t>{100 + 3 * 42, 7}));
  EXPECT_EQ(death, "");
}

TEST_F(EmulatorTest, SeesWhatIsWrittenPastABuffer) {
  std::vector<uint32_t> code{kLoadOperand, 0xb900'053f, kReturn}; // str wzr, [x9, #4]
  std::vector<int32_t> one{1}, two{1, 2};
  EXPECT_EQ(run(code, one), WrotePastOperand);
  EXPECT_EQ(run(code, two), 0u);
  EXPECT_EQ(two[1], 0);
}

TEST_F(EmulatorTest, SeesWhatIsWrittenPastTheScratchMemory) {
  std::vector<uint32_t> code{0xb900'405f, kReturn}; // str wzr, [x2, #64]
  std::vector<int32_t> operand{1};
  EXPECT_EQ(run(code, operand), WrotePastScratch);
}

TEST_F(EmulatorTest, SeesAWaitThatNothingEnds) {
  // ldr x3, [x1, #16]; ldr x0, [x0]; mov w1, #2; br x3: waits until the operand is 2.
  std::vector<uint32_t> code{0xf940'0823, 0xf940'0000, 0x5280'0041, 0xd61f'0060};
  std::vector<int32_t> one{1}, two{2};
  EXPECT_EQ(run(code, one), WaitedInVain);
  EXPECT_EQ(run(code, two), 0u);
}

// A processor that lacks an instruction does not run it. So a target's kernels that run on one are
// known to need nothing more.
TEST_F(EmulatorTest, ProcessorsLackInstructions) {
  constexpr uint32_t usmmla = 0x4e80'ac00, bfmmla = 0x6e40'ec00; // of v0
  for (uint32_t instruction : {usmmla, bfmmla})
    for (bool newer : {true, false}) {
      std::string missing;
      emulator = Emulator::aarch64(missing, newer ? "max" : "cortex-a76");
      std::vector<uint32_t> code{instruction, kReturn};
      std::vector<int32_t> operand{1};
      death.clear();
      run(code, operand);
      if (newer)
        EXPECT_EQ(death, "");
      else
        EXPECT_NE(death.find("Illegal instruction"), std::string::npos) << death;
    }
}

TEST_F(EmulatorTest, TellsOfADeath) {
  std::vector<int32_t> operand{1};
  run({0}, operand); // udf #0
  EXPECT_NE(death.find("Illegal instruction"), std::string::npos) << death;
  uint32_t code = kReturn;
  EXPECT_EQ(emulator->load({reinterpret_cast<const char *>(&code), 4}), 0u);
}

} // namespace
