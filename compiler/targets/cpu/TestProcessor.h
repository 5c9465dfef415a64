// What tests run kernels for CPUs on: this machine's processor, where need be with instructions
// that are emulated, or another processor, emulated as a whole.
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

  // Whether all of it or some instructions are emulated, so that its speed says nothing.
  bool isEmulated() const { return emulator || emulates; }

  // The address of an image's code, where the processor can run it.
  uint64_t load(llvm::ArrayRef<char> code);

  // As runWorkers, with the kernel at that address. Expects that nothing goes wrong. The buffers
  // must not overlap.
  void run(uint64_t kernel, const std::vector<Buffer> &operands, const RunFacts &facts);

private:
  TestProcessor(std::unique_ptr<Emulator> emulator, bool emulates)
      : emulator(std::move(emulator)), emulates(emulates) {}

  std::unique_ptr<Emulator> emulator; // where this machine's processor is another
  bool emulates;                      // instructions that this one lacks
  std::vector<std::pair<void *, size_t>> mappings;
};

} // namespace moe::codegen

#endif
