// One run of a kernel as tests make it, and how a test asks an emulated processor for one. Plain
// C++, for the program that runs under the emulator is built without LLVM.
#ifndef MOE_COMPILER_TARGETS_CPU_TESTWORKERS_H
#define MOE_COMPILER_TARGETS_CPU_TESTWORKERS_H

#include "runtime/device/cpu/KernelAbi.h"
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

namespace moe::codegen {

struct RunFacts {
  int32_t tokens = 0, rows = 0, tableStride = 0, workers = 0;
  uint64_t scratchBytes = 0; // of each worker
};

// What a run did wrong, as bits.
enum RunFault : uint32_t { WrotePastScratch = 1, WaitedInVain = 2, WrotePastOperand = 4 };

// Runs all workers at once, each with scratch memory full of NaN. Returns the faults. A wait is in
// vain when, for a second, no worker ran that did not wait.
inline uint32_t runWorkers(cpu::Kernel kernel, void *const *operands, const RunFacts &facts) {
  static std::atomic<uint32_t> faults;
  static std::atomic<int32_t> running;
  faults = 0;
  running = facts.workers;
  auto await = [](const int32_t *counter, int32_t value) {
    using Clock = std::chrono::steady_clock;
    auto reached = [&] { return __atomic_load_n(counter, __ATOMIC_ACQUIRE) == value; };
    if (reached())
      return;
    --running;
    for (auto lastRun = Clock::now(); !reached(); std::this_thread::yield()) {
      if (running > 0)
        lastRun = Clock::now();
      if (Clock::now() - lastRun > std::chrono::seconds(1)) {
        faults |= WaitedInVain;
        break;
      }
    }
    ++running;
  };
  cpu::StepInfo step{facts.tokens, facts.rows, facts.tableStride, 0, await};
  auto run = [&](int32_t worker) {
    constexpr size_t unit = 64;
    size_t bytes = facts.scratchBytes + 2 * unit;
    std::unique_ptr<std::byte[]> scratch(new std::byte[bytes]);
    std::memset(scratch.get(), 0xff, bytes);
    auto start = (reinterpret_cast<uintptr_t>(scratch.get()) + unit - 1) / unit * unit;
    auto *aligned = reinterpret_cast<std::byte *>(start);
    kernel(operands, &step, aligned, worker, facts.workers);
    if (aligned[facts.scratchBytes] != std::byte(0xff))
      faults |= WrotePastScratch;
    --running;
  };
  std::vector<std::thread> others;
  for (int32_t worker = 1; worker < facts.workers; ++worker)
    others.emplace_back(run, worker);
  run(0);
  for (std::thread &other : others)
    other.join();
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
