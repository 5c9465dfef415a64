// What tests run kernels for CPUs on: this machine's processor, or an emulated one.
#ifndef MOE_COMPILER_TARGETS_CPU_TESTPROCESSOR_H
#define MOE_COMPILER_TARGETS_CPU_TESTPROCESSOR_H

#include "compiler/targets/cpu/TestEmulator.h"
#include "llvm/ADT/ArrayRef.h"

namespace moe::codegen {

class TestProcessor {
public:
  // A processor with the features of an image, or nothing and, in `missing`, what this machine
  // lacks.
  static std::unique_ptr<TestProcessor> create(llvm::ArrayRef<std::string> features,
                                               std::string &missing);
  ~TestProcessor();
  TestProcessor(const TestProcessor &) = delete;
  TestProcessor &operator=(const TestProcessor &) = delete;

  // The address of an image's code, where the processor can run it.
  uint64_t load(llvm::ArrayRef<char> code);

  // As runWorkers, with the kernel at that address. Expects that nothing goes wrong. The buffers
  // must not overlap.
  void run(uint64_t kernel, const std::vector<Buffer> &operands, const RunFacts &facts);

private:
  explicit TestProcessor(std::unique_ptr<Emulator> emulator) : emulator(std::move(emulator)) {}

  std::unique_ptr<Emulator> emulator; // where this machine's processor is another
  std::vector<std::pair<void *, size_t>> mappings;
};

} // namespace moe::codegen

#endif
