// One run of a kernel as tests make it, and how a test asks an emulated processor for one. Plain
// C++, for the program that runs under the emulator is built without LLVM.
#ifndef MOE_COMPILER_TARGETS_CPU_TESTWORKERS_H
#define MOE_COMPILER_TARGETS_CPU_TESTWORKERS_H

#include "runtime/device/cpu/KernelAbi.h"
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

namespace moe::codegen {

struct RunFacts {
  int32_t tokens = 0, rows = 0, tableStride = 0, workers = 0;
  uint64_t scratchBytes = 0; // of each worker
};

// What a run did wrong, as bits.
enum RunFault : uint32_t { WrotePastScratch = 1, WaitedInVain = 2, WrotePastOperand = 4 };

// Runs all workers, one after the other, each with fresh scratch memory full of NaN. So what a
// worker waits for is there, or never will be. Returns the faults.
inline uint32_t runWorkers(cpu::Kernel kernel, void *const *operands, const RunFacts &facts) {
  static uint32_t faults;
  faults = 0;
  auto await = [](const int32_t *counter, int32_t value) {
    if (*counter != value)
      faults |= WaitedInVain;
  };
  cpu::StepInfo step{facts.tokens, facts.rows, facts.tableStride, 0, await};
  constexpr size_t unit = 64;
  std::unique_ptr<std::byte[]> scratch(new std::byte[facts.scratchBytes + 2 * unit]);
  for (int32_t worker = 0; worker < facts.workers; ++worker) {
    std::memset(scratch.get(), 0xff, facts.scratchBytes + 2 * unit);
    auto start = (reinterpret_cast<uintptr_t>(scratch.get()) + unit - 1) / unit * unit;
    auto *aligned = reinterpret_cast<std::byte *>(start);
    kernel(operands, &step, aligned, worker, facts.workers);
    if (aligned[facts.scratchBytes] != std::byte(0xff))
      faults |= WrotePastScratch;
  }
  return faults;
}

// What the emulated program reads, again and again, until its input ends. With code: that many
// bytes of code follow, and the answer is the address that they are loaded at (uint64_t). Without:
// `operands` buffers follow, each as its size (uint64_t) and its bytes; the answer is the faults of
// the run (uint32_t) and what the buffers hold after it.
struct EmulatorRequest {
  uint64_t codeBytes = 0;
  uint64_t kernel = 0; // its address there
  uint64_t operands = 0;
  RunFacts facts;
};

} // namespace moe::codegen

#endif
