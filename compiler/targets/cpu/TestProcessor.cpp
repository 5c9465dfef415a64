// Maps code, and makes runs of it expectations.
#include "compiler/targets/cpu/TestProcessor.h"
#include "compiler/targets/cpu/TestInstructions.h"
#include "runtime/device/cpu/CpuFeatures.h"
#include "llvm/ADT/STLExtras.h"
#include <gtest/gtest.h>
#include <optional>
#include <sys/mman.h>

namespace moe::codegen {

std::unique_ptr<TestProcessor> TestProcessor::create(llvm::ArrayRef<std::string> features,
                                                     std::string &missing) {
  const std::vector<std::string> has = cpu::hostFeatures();
  std::unique_ptr<Emulator> emulator;
  bool emulates = false;
  if (features[0] == "aarch64" && has[0] != "aarch64") {
    emulator = Emulator::aarch64(missing);
    if (!emulator)
      return nullptr;
  } else {
    for (const std::string &feature : features) {
      if (llvm::is_contained(has, feature))
        continue;
      if (!llvm::is_contained(EmulatedInstructions::features(), feature)) {
        missing = "this processor has no " + feature;
        return nullptr;
      }
      emulates = true;
    }
    if (emulates) {
      missing = EmulatedInstructions::missing();
      if (!missing.empty())
        return nullptr;
    }
  }
  return std::unique_ptr<TestProcessor>(new TestProcessor(std::move(emulator), emulates));
}

TestProcessor::~TestProcessor() {
  for (auto [at, bytes] : mappings)
    munmap(at, bytes);
}

uint64_t TestProcessor::load(llvm::ArrayRef<char> code) {
  if (emulator) {
    const uint64_t at = emulator->load({code.data(), code.size()});
    EXPECT_NE(at, 0u) << "the emulated program has died";
    return at;
  }
  void *at = mmap(nullptr, code.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memcpy(at, code.data(), code.size());
  mprotect(at, code.size(), PROT_READ | PROT_EXEC);
  mappings.push_back({at, code.size()});
  return reinterpret_cast<uintptr_t>(at);
}

void TestProcessor::run(uint64_t kernel, const std::vector<Buffer> &operands,
                        const RunFacts &facts) {
  uint32_t faults;
  if (emulator) {
    std::string death;
    faults = emulator->run(kernel, operands, facts, death);
    ASSERT_EQ(death, "");
  } else {
    std::vector<void *> pointers;
    for (const Buffer &buffer : operands)
      pointers.push_back(buffer.data);
    std::optional<EmulatedInstructions> instructions;
    if (emulates)
      instructions.emplace();
    faults = runWorkers(reinterpret_cast<cpu::Kernel>(kernel), pointers.data(), facts);
    EXPECT_FALSE(EmulatedInstructions::holdTiles()) << "the kernel keeps AMX's tiles configured";
  }
  EXPECT_FALSE(faults & WrotePastScratch) << "the kernel wrote past its scratch memory";
  EXPECT_FALSE(faults & WrotePastOperand) << "the kernel wrote past an operand";
  EXPECT_FALSE(faults & WaitedInVain) << "the kernel waits for what never comes";
}

} // namespace moe::codegen
