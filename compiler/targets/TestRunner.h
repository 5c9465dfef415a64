// Runs the kernels of an image, of any target: on this machine, or on what emulates or simulates
// the target.
#ifndef MOE_COMPILER_TARGETS_TESTRUNNER_H
#define MOE_COMPILER_TARGETS_TESTRUNNER_H

#include "compiler/targets/CodeImage.h"
#include "compiler/targets/cpu/TestProcessor.h"
#include "compiler/targets/cuda/TestPtx.h"

namespace moe::codegen {

class KernelRunner {
public:
  // Of an image, or nothing and, in `missing`, what this machine lacks.
  static std::unique_ptr<KernelRunner> create(const CodeImage &image, std::string &missing);
  virtual ~KernelRunner() = default;

  using Bytes = std::vector<std::byte>;
  // Memory of the target that holds these bytes: its number.
  virtual size_t place(const Bytes &bytes) = 0;
  // As many bytes as were placed.
  virtual void write(size_t memory, const Bytes &bytes) = 0;
  virtual Bytes read(size_t memory) = 0;

  struct Operand {
    size_t memory;
    int64_t offset; // in it
  };
  struct Call {
    llvm::StringRef kernel;
    std::vector<Operand> operands;
    int32_t tokens, rows, tableStride;
    int64_t scratchBytes; // of a worker
    int64_t blocks;       // pieces of work; 0 where kernels are not launched as grids
  };
  // `width`: how many workers or blocks share the work, at most. Expects that nothing went wrong.
  virtual void run(const Call &call, int64_t width) = 0;
};

class CpuRunner : public KernelRunner {
public:
  CpuRunner(const CodeImage &image, std::unique_ptr<TestProcessor> processor)
      : processor(std::move(processor)), code(this->processor->load(image.code)),
        entries(image.entries) {}

  size_t place(const Bytes &bytes) override {
    memories.push_back(bytes);
    memories.back().insert(memories.back().end(), kGuard, std::byte(0xa5));
    return memories.size() - 1;
  }
  void write(size_t memory, const Bytes &bytes) override {
    llvm::copy(bytes, memories[memory].begin());
  }
  Bytes read(size_t memory) override {
    return {memories[memory].begin(), memories[memory].end() - kGuard};
  }
  void run(const Call &call, int64_t width) override {
    std::vector<Buffer> buffers;
    for (Operand operand : call.operands)
      buffers.push_back({memories[operand.memory], size_t(operand.offset)});
    processor->run(
        code + entries.lookup(call.kernel), buffers,
        {call.tokens, call.rows, call.tableStride, int32_t(width), uint64_t(call.scratchBytes)});
    for (Operand operand : call.operands)
      EXPECT_TRUE(llvm::all_of(llvm::ArrayRef(memories[operand.memory]).take_back(kGuard),
                               [](std::byte byte) { return byte == std::byte(0xa5); }))
          << call.kernel.str() << " wrote past an operand";
  }

private:
  static constexpr size_t kGuard = 64; // bytes after a memory that must stay as they are

  std::unique_ptr<TestProcessor> processor;
  uint64_t code; // its address
  llvm::StringMap<uint64_t> entries;
  std::vector<Bytes> memories;
};

class CudaRunner : public KernelRunner {
public:
  explicit CudaRunner(const CodeImage &image) : kernel(image), launches(image.launches) {}

  size_t place(const Bytes &bytes) override {
    memories.push_back({bench.put(bytes), bytes.size()});
    return memories.size() - 1;
  }
  void write(size_t memory, const Bytes &bytes) override {
    bench.copyIn(memories[memory].address, bytes);
  }
  Bytes read(size_t memory) override {
    return bench.get<std::byte>(memories[memory].address, memories[memory].bytes);
  }
  void run(const Call &call, int64_t width) override {
    kernel.select(call.kernel, launches.lookup(call.kernel));
    std::vector<uint64_t> addresses;
    for (Operand operand : call.operands)
      addresses.push_back(memories[operand.memory].address + operand.offset);
    bench.options.seed = width;
    Status status =
        bench.tryRunAt(kernel, std::clamp<int64_t>(call.blocks, 1, width), std::move(addresses),
                       {call.tokens, call.rows, call.tableStride, 0});
    EXPECT_TRUE(status) << call.kernel.str() << ": " << status.error().message;
  }

private:
  struct Memory {
    uint64_t address;
    size_t bytes;
  };
  PtxBench bench;
  PtxKernel kernel; // of the image's, the one that is run
  llvm::StringMap<GridLaunch> launches;
  std::vector<Memory> memories;
};

inline std::unique_ptr<KernelRunner> KernelRunner::create(const CodeImage &image,
                                                          std::string &missing) {
  if (image.kind == CodeImage::Ptx) {
    if (llvm::StringRef chip = image.features.back(); runnable(chip) != chip) {
      missing = "the GPU cannot run kernels for " + chip.str();
      return nullptr;
    }
    return std::make_unique<CudaRunner>(image);
  }
  std::unique_ptr<TestProcessor> processor = TestProcessor::create(image.features, missing);
  return processor ? std::make_unique<CpuRunner>(image, std::move(processor)) : nullptr;
}

} // namespace moe::codegen

#endif
