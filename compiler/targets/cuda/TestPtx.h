// What the tests of CUDA kernels share: a kernel as PTX, its launch on the simulator or on a GPU,
// and weights as a plan stores them.
#ifndef MOE_COMPILER_TARGETS_CUDA_TESTPTX_H
#define MOE_COMPILER_TARGETS_CUDA_TESTPTX_H

#include "compiler/kernels/TestFloats.h"
#include "compiler/kernels/TestWeight.h"
#include "compiler/targets/CodeImage.h"
#include "compiler/targets/cuda/CudaTarget.h"
#include "compiler/targets/cuda/LowerToCuda.h"
#include "compiler/targets/cuda/Strips.h"
#include "runtime/device/cuda/Gpu.h"
#include "runtime/device/cuda/KernelAbi.h"
#include "runtime/device/ptxsim/Machine.h"
#include "runtime/device/ptxsim/Parser.h"
#include <bit>
#include <cmath>
#include <gtest/gtest.h>
#include <random>

namespace moe::codegen {

using Floats = std::vector<float>;
using Halves = std::vector<uint16_t>; // of bf16 or f16
using Ints = std::vector<int32_t>;

// The random numbers of a test.
struct RandomFloats {
  std::mt19937 generator;

  Floats normal(size_t n, float scale = 1) { return normalFloats(generator, n, scale); }
  Floats rounded(size_t n, float scale = 1) { return normalBf16(generator, n, scale); }
};

// The table of MOE_TEST_GPU ("cuda": this machine's GPU, "ptxsim": the simulator behind the same
// table); null without it: kernels then run on the simulator directly, with its options at hand.
const cuda::DriverApi *testDriver();

// `chip`, or where kernels for it cannot run on the device of MOE_TEST_GPU, the best one that can.
llvm::StringRef runnable(llvm::StringRef chip);

// What a kernel is passed, by name.
struct PtxArgument {
  Operand operand;
  uint64_t address;
};

// A kernel that was compiled for a target.
struct PtxKernel {
  CudaTarget target;
  std::string name, ptx;
  Operands operands;
  int64_t threads = 0, sharedBytes = 0, blocksPerSm = 0;
  bool dependent = false;
  ptxsim::Module module;

  // For a chip that is runnable. Tests run the same kernels in many ways, so each is compiled once
  // in a program.
  template <class Contract>
  explicit PtxKernel(const Contract &contract, llvm::StringRef chip = "sm_90a")
      : PtxKernel(ChosenKernel<CudaKernel>(contract), chip) {
    if constexpr (requires { contract.refusal(); })
      EXPECT_EQ(contract.refusal(), "");
  }
  explicit PtxKernel(const ChosenKernel<CudaKernel> &kernel, llvm::StringRef chip = "sm_90a");
  // Of an image that holds many kernels; select() says which one it is.
  explicit PtxKernel(const CodeImage &image);
  void select(llvm::StringRef kernel, const GridLaunch &launch);

  // Checks that a block of the target has the shared memory and, with the assembler where there is
  // one: no spills, no warnings of serialization, and at most `registers`.
  void expectAssembles(int64_t registers) const;

private:
  PtxKernel() = default;
  void compile(const ChosenKernel<CudaKernel> &kernel, llvm::StringRef chip);
  void parse();
};

// The memory of the device that kernels are tested on, and launches.
class PtxBench {
public:
  ptxsim::Options options;
  ptxsim::Stats stats; // of the last run; of the simulator alone
  // The blocks of the grid that the simulator runs, ascending; empty: all. A GPU runs all.
  std::vector<uint32_t> sample;

  explicit PtxBench(uint64_t seed = 0);

  uint64_t room(uint64_t bytes, std::string name = "");
  // Memory whose bytes come from `source`: on the simulator when something reads them.
  uint64_t room(uint64_t bytes, std::string name, const ptxsim::Source &source);
  uint64_t zeros(uint64_t bytes, std::string name = "") {
    return put(std::vector<uint8_t>(bytes), std::move(name));
  }
  void copyIn(uint64_t to, std::span<const std::byte> bytes);
  void copyOut(std::span<std::byte> to, uint64_t from, bool written);
  template <class T> uint64_t put(const std::vector<T> &values, std::string name = "") {
    uint64_t address = room(values.size() * sizeof(T), std::move(name));
    copyIn(address, std::as_bytes(std::span(values)));
    return address;
  }
  // All of it must have been written.
  template <class T> std::vector<T> get(uint64_t from, size_t count, bool written = true) {
    std::vector<T> values(count);
    copyOut(std::as_writable_bytes(std::span(values)), from, written);
    return values;
  }
  // As counters are after every kernel.
  void expectZeros(uint64_t from, uint64_t bytes);

  // Room for what a kernel of this contract writes or works on in a step; counters are zero.
  template <class Contract> PtxArgument made(const Contract &contract, Operand operand, Step step) {
    const int64_t bytes = contract.bytes(operand, step);
    std::string name = nameOf(operand).str();
    return {operand, operand == Operand::Counters ? zeros(bytes, name) : room(bytes, name)};
  }

  // `arguments` are all operands of the kernel and no others, in any order.
  void run(const PtxKernel &kernel, int64_t blocks, llvm::ArrayRef<PtxArgument> arguments,
           cuda::StepInfo step);
  // With the addresses of its operands, in order.
  Status tryRunAt(const PtxKernel &kernel, int64_t blocks, std::vector<uint64_t> operands,
                  cuda::StepInfo step);

private:
  Status simulate(const PtxKernel &kernel, int64_t blocks, const std::vector<uint64_t> &operands);
  Status launch(const PtxKernel &kernel, int64_t blocks, std::vector<uint64_t> &operands);

  std::shared_ptr<const cuda::Gpu> gpu;
  std::vector<cuda::Memory> owned;
  ptxsim::Memory memory;
};

inline uint16_t toBf16(float x) { // to the nearest, ties to even
  uint32_t bits = std::bit_cast<uint32_t>(x);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline float fromBf16(uint16_t x) { return std::bit_cast<float>(uint32_t(x) << 16); }

// A row-major matrix [rows, columns] as `fragments` (README.md).
Halves toFragments(const Floats &matrix, int64_t rows, int64_t columns);

// Random matrices; `kind` is one of the fragments, or rows.
TestWeight testWeight(std::mt19937 &random, const WeightFormat &format, int64_t matrices,
                      int64_t rows, int64_t columns, float size,
                      WeightLayout::Kind kind = WeightLayout::Kind::Fragments);

// The formats that kernels are tested with.
inline const WeightFormat kInt4{Storage::I4, 128, Storage::F16},
    kInt4Zeros{Storage::I4, 32, Storage::BF16, true}, kInt8{Storage::I8, 128, Storage::F16},
    kInt8Small{Storage::I8, 64, Storage::F32}, kFp8{Storage::F8E4M3, 128, Storage::F32};
// In groups of whole rows: those of so many columns.
inline WeightFormat fp8Rows(int64_t columns) { return {Storage::F8E4M3, columns, Storage::F32}; }
inline WeightFormat int8Rows(int64_t columns) { return {Storage::I8, columns, Storage::F16}; }
inline WeightFormat int4Rows(int64_t columns) { return {Storage::I4, columns, Storage::BF16}; }

} // namespace moe::codegen

#endif
