// What the tests of CUDA kernels share: a kernel as PTX, and its launch on the simulator.
#ifndef MOE_COMPILER_TARGETS_CUDA_TESTPTX_H
#define MOE_COMPILER_TARGETS_CUDA_TESTPTX_H

#include "compiler/kernels/TestFloats.h"
#include "compiler/targets/cuda/CudaKernel.h"
#include "compiler/targets/cuda/CudaSpec.h"
#include "compiler/targets/cuda/ToPtx.h"
#include "dialects/moe/MoeDialect.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/IR/Verifier.h"
#include "runtime/device/cuda/Gpu.h"
#include "runtime/device/cuda/Image.h"
#include "runtime/device/cuda/KernelAbi.h"
#include "runtime/device/ptxsim/Driver.h"
#include "runtime/device/ptxsim/Machine.h"
#include "runtime/device/ptxsim/Parser.h"
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <random>
#include <stdexcept>

namespace moe::codegen {

// The table of MOE_TEST_GPU ("cuda": this machine's GPU, "ptxsim": the simulator behind the same
// table); null without it: kernels then run on the simulator directly, with its options at hand.
inline const cuda::DriverApi *testDriver() {
  static const cuda::DriverApi *api = [] {
    const char *name = std::getenv("MOE_TEST_GPU");
    if (!name)
      return static_cast<const cuda::DriverApi *>(nullptr);
    if (name == std::string("ptxsim"))
      return &ptxsim::simulatedDriver();
    auto loaded = cuda::loadDriver();
    if (!loaded)
      throw std::runtime_error(loaded.error().message);
    return *loaded;
  }();
  return api;
}

// `chip`, or where kernels for it cannot run on the device of MOE_TEST_GPU, the best one that can.
inline llvm::StringRef runnable(llvm::StringRef chip) {
  if (!testDriver())
    return chip;
  auto gpu = cuda::Gpu::open(*testDriver(), "gpu", 0);
  if (!gpu)
    throw std::runtime_error(gpu.error().message);
  auto runs = [&](llvm::StringRef name) {
    return cuda::targetRunsOn(name.str(), (*gpu)->major, (*gpu)->minor, /*assembled=*/false);
  };
  return runs(chip) ? chip : *llvm::find_if(cudaTargetNames(), runs);
}

// A kernel that was compiled for a target. The emitter is named, so that a test links it alone.
struct PtxKernel {
  using Emitter = void (*)(CudaKernel &, const CudaSpec &);

  CudaTarget target;
  std::string name, ptx;
  int64_t operands = 0, threads = 0, sharedBytes = 0, blocksPerSm = 0;
  bool dependent = false;
  ptxsim::Module module;

  PtxKernel(const CudaSpec &spec, Emitter emit, llvm::StringRef chip = "sm_90a")
      : target(*cudaTarget(runnable(chip))), name(nameOf(spec)), operands(operandsOf(spec)) {
    EXPECT_EQ(unsupported(spec), "");
    mlir::MLIRContext context;
    context.loadDialect<mlir::arith::ArithDialect, mlir::LLVM::LLVMDialect, mlir::math::MathDialect,
                        mlir::scf::SCFDialect, mlir::vector::VectorDialect>();
    auto ir = mlir::OwningOpRef<mlir::ModuleOp>(
        mlir::ModuleOp::create(mlir::UnknownLoc::get(&context), name));
    CudaKernel kernel(*ir, target, name, operands);
    emit(kernel, spec);
    kernel.finish();
    EXPECT_TRUE(mlir::succeeded(mlir::verify(*ir)));
    auto function = ir->lookupSymbol<mlir::LLVM::LLVMFuncOp>(name);
    auto attr = [&](llvm::StringRef key) {
      return function->getAttrOfType<mlir::IntegerAttr>(key).getInt();
    };
    threads = attr("moe.threads");
    sharedBytes = attr("moe.shared_bytes");
    blocksPerSm = attr("moe.blocks_per_sm");
    dependent = function->hasAttr("moe.dependent");
    EXPECT_TRUE(mlir::succeeded(lowerCudaKernels(*ir)));
    auto text = toPtx(*ir, target);
    if (!text) {
      ADD_FAILURE() << llvm::toString(text.takeError());
      return;
    }
    ptx = *text;
    auto parsed = ptxsim::parse(ptx);
    if (!parsed) {
      ADD_FAILURE() << parsed.error().message << "\n" << ptx;
      return;
    }
    module = std::move(*parsed);
  }

  // Checks with the assembler, where there is one: no spills, no warnings of serialization, and at
  // most `registers`.
  void expectAssembles(int64_t registers) const {
    auto ptxas = findPtxas();
    ASSERT_TRUE(bool(ptxas)) << llvm::toString(ptxas.takeError());
    if (!*ptxas)
      return;
    auto cubin = assemble(**ptxas, ptx, target);
    ASSERT_TRUE(bool(cubin)) << llvm::toString(cubin.takeError());
    Assembled report = cubin->kernels[name];
    EXPECT_EQ(report.spillBytes, 0) << name << " on " << target.chip;
    EXPECT_GT(report.registers, 0);
    EXPECT_LE(report.registers, registers) << name << " on " << target.chip;
    EXPECT_EQ(cubin->warnings.find("C75"), std::string::npos) << cubin->warnings;
  }
};

// The memory of the device that kernels are tested on, and launches.
class PtxBench {
public:
  ptxsim::Options options;
  ptxsim::Stats stats; // of the last run; of the simulator alone
  // The blocks of the grid that the simulator runs, ascending; empty: all. A GPU runs all.
  std::vector<uint32_t> sample;

  PtxBench() {
    if (!testDriver())
      return;
    auto opened = cuda::Gpu::open(*testDriver(), "gpu", 0);
    if (!opened)
      throw std::runtime_error(opened.error().message);
    gpu = *opened;
  }

  uint64_t room(uint64_t bytes, std::string name = "") {
    bytes = std::max<uint64_t>(bytes, 16);
    if (gpu) {
      auto allocated = gpu->allocate(bytes, name);
      EXPECT_TRUE(allocated) << allocated.error().message;
      owned.push_back(std::move(*allocated));
      return owned.back().get();
    }
    auto address = memory.allocate(bytes, std::move(name));
    EXPECT_TRUE(address);
    return *address;
  }
  // Memory whose bytes come from `source`: on the simulator when something reads them.
  uint64_t room(uint64_t bytes, std::string name, const ptxsim::Source &source) {
    if (!gpu) {
      auto address = memory.allocate(bytes, std::move(name), source);
      EXPECT_TRUE(address);
      return *address;
    }
    uint64_t address = room(bytes, std::move(name));
    std::vector<std::byte> unit(source.unit);
    for (uint64_t at = 0; at < bytes; at += source.unit) {
      unit.assign(std::min(source.unit, bytes - at), std::byte(0));
      source.make(at, unit);
      copyIn(address + at, unit);
      EXPECT_EQ(gpu->api.cuStreamSynchronize(nullptr), cuda::CUresult::success); // `unit` is read
    }
    return address;
  }
  void copyIn(uint64_t to, std::span<const std::byte> bytes) {
    if (bytes.empty())
      return;
    Status status =
        gpu ? gpu->check(gpu->api.cuMemcpyHtoDAsync(to, bytes.data(), bytes.size(), nullptr),
                         "copy")
            : memory.copyIn(to, bytes);
    EXPECT_TRUE(status) << status.error().message;
  }
  template <class T> uint64_t put(const std::vector<T> &values, std::string name = "") {
    uint64_t address = room(values.size() * sizeof(T), std::move(name));
    copyIn(address, std::as_bytes(std::span(values)));
    return address;
  }
  // All of it must have been written.
  template <class T> std::vector<T> get(uint64_t from, size_t count, bool written = true) {
    std::vector<T> values(count);
    auto bytes = std::as_writable_bytes(std::span(values));
    Status status = ok();
    if (gpu && count) {
      status = gpu->check(gpu->api.cuMemcpyDtoHAsync(bytes.data(), from, bytes.size(), nullptr),
                          "copy back");
      if (status)
        status = gpu->check(gpu->api.cuStreamSynchronize(nullptr), "copy back");
    } else if (!gpu) {
      status = memory.copyOut(bytes, from, written);
    }
    EXPECT_TRUE(status) << status.error().message;
    return values;
  }

  Status tryRun(const PtxKernel &kernel, int64_t blocks, std::vector<uint64_t> operands,
                cuda::StepInfo step) {
    EXPECT_EQ(int64_t(operands.size()), kernel.operands);
    operands.push_back(put(std::vector<cuda::StepInfo>{step}, "step"));
    return gpu ? launch(kernel, blocks, operands) : simulate(kernel, blocks, operands);
  }
  void run(const PtxKernel &kernel, int64_t blocks, const std::vector<uint64_t> &operands,
           cuda::StepInfo step) {
    auto status = tryRun(kernel, blocks, operands, step);
    ASSERT_TRUE(status) << kernel.name << ": " << status.error().message;
  }

private:
  Status simulate(const PtxKernel &kernel, int64_t blocks, const std::vector<uint64_t> &operands) {
    MOE_ASSIGN(globals, ptxsim::allocateGlobals(kernel.module, memory));
    ptxsim::Launch launch;
    launch.grid = {uint32_t(blocks), 1, 1};
    launch.block = {uint32_t(kernel.threads), 1, 1};
    launch.sharedBytes = kernel.sharedBytes;
    launch.params = std::as_bytes(std::span(operands));
    launch.globals = globals;
    launch.sample = sample;
    options.residentBlocks = sample.empty() ? blocks : sample.size();
    MOE_ASSIGN(counted, ptxsim::run(kernel.module, kernel.name, launch, memory, options));
    stats = counted;
    return ok();
  }

  Status launch(const PtxKernel &kernel, int64_t blocks, std::vector<uint64_t> &operands) {
    Image image;
    image.target = kernel.target.name;
    image.code = std::as_bytes(std::span(kernel.ptx.c_str(), kernel.ptx.size() + 1));
    MOE_ASSIGN(loaded, cuda::loadImage(image, *gpu));
    cuda::CUfunction function = nullptr;
    MOE_TRY(gpu->check(
        gpu->api.cuModuleGetFunction(&function, loaded.module.get(), kernel.name.c_str()), "load"));
    MOE_TRY(gpu->check(
        gpu->api.cuFuncSetAttribute(function, cuda::FunctionAttribute::maxDynamicSharedSizeBytes,
                                    int(kernel.sharedBytes)),
        "give a kernel its shared memory"));
    std::vector<void *> parameters;
    for (uint64_t &operand : operands)
      parameters.push_back(&operand);
    cuda::LaunchConfig config{};
    config.gridDimX = unsigned(blocks);
    config.gridDimY = config.gridDimZ = 1;
    config.blockDimX = unsigned(kernel.threads);
    config.blockDimY = config.blockDimZ = 1;
    config.sharedMemBytes = unsigned(kernel.sharedBytes);
    MOE_TRY(gpu->check(gpu->api.cuLaunchKernelEx(&config, function, parameters.data(), nullptr),
                       "launch a kernel"));
    return gpu->check(gpu->api.cuStreamSynchronize(nullptr), "finish a kernel");
  }

  std::shared_ptr<const cuda::Gpu> gpu;
  std::vector<cuda::Memory> owned;
  ptxsim::Memory memory;
};

inline uint16_t toBf16(float x) { // to the nearest, ties to even
  uint32_t bits = std::bit_cast<uint32_t>(x);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline float fromBf16(uint16_t x) { return std::bit_cast<float>(uint32_t(x) << 16); }

// A row-major matrix [rows, columns] as `fragments` (README.md); with `gateUp` the rows are all
// gate rows and then all up rows.
inline std::vector<uint16_t> toFragments(const std::vector<float> &matrix, int64_t rows,
                                         int64_t columns, bool gateUp = false) {
  int64_t tiles = padded(columns) / 16;
  int64_t half = rows / 2, strips = gateUp ? (half + 7) / 8 : (rows + 15) / 16;
  std::vector<uint16_t> out(strips * tiles * 256);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) {
      int64_t j = gateUp ? row % half : row;
      int64_t strip = gateUp ? j / 8 : row / 16,
              r = gateUp ? j % 8 + (row >= half ? 8 : 0) : row % 16;
      int64_t c = column % 16;
      int64_t lane = r % 8 * 4 + c % 8 / 2, pair = r / 8 + c / 8 * 2;
      out[((strip * tiles + column / 16) * 32 + lane) * 8 + pair * 2 + c % 2] =
          toBf16(matrix[row * columns + column]);
    }
  return out;
}

// Random matrices as a plan stores them, and their values.
struct TestWeight {
  std::vector<uint8_t> bytes;
  std::vector<float> values; // [matrices][rows][columns]
};

inline float fromF8(uint8_t code) {
  int exponent = code >> 3 & 15, mantissa = code & 7;
  float value = exponent ? std::ldexp(8 + mantissa, exponent - 10) : std::ldexp(mantissa, -9);
  return code & 0x80 ? -value : value;
}

// Values are about as large as `size`. `layout` is one of the fragments, or rows.
inline TestWeight testWeight(std::mt19937 &random, const WeightFormat &format, int64_t matrices,
                             int64_t rows, int64_t columns, float size,
                             Layout layout = Layout::Fragments) {
  TestWeight w;
  w.values.resize(matrices * rows * columns);
  mlir::MLIRContext context;
  context.loadDialect<MoeDialect, plan::PlanDialect>();
  auto type =
      mlir::RankedTensorType::get({matrices, rows, columns}, mlir::Float32Type::get(&context));
  auto geometry = layoutOf(
      type, plan::PackingAttr::get(&context, layout, FormatAttr::get(&context, format), 0));
  if (mlir::failed(geometry)) {
    ADD_FAILURE() << "no packing as " << nameOf(format);
    return w;
  }
  w.bytes.resize(geometry->bytes());
  auto put = [&](int64_t at, auto value) { std::memcpy(&w.bytes[at], &value, sizeof(value)); };
  std::normal_distribution<float> normal(0, size);
  std::uniform_real_distribution<float> uniform(0.5f, 1.5f);
  const int64_t group = format.quantized() ? format.group : columns;
  const float largest = format.element == Storage::I4   ? 8
                        : format.element == Storage::I8 ? 128
                                                        : 448;
  for (int64_t m = 0; m < matrices; ++m)
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t first = 0; first < columns; first += group) {
        float *values = &w.values[(m * rows + row) * columns + first];
        if (!format.quantized()) {
          for (int64_t c = 0; c < columns; ++c) {
            uint16_t bits = toBf16(normal(random));
            values[c] = fromBf16(bits);
            put(geometry->index(m, row, c) * 2, bits);
          }
          continue;
        }
        float scale = size * 2 / largest * uniform(random);
        int64_t at = geometry->scale(m, row, first / group), zero = format.zero();
        if (format.scale == Storage::F16) {
          _Float16 half = _Float16(scale);
          put(at, half);
          scale = float(half);
        } else if (format.scale == Storage::BF16) {
          put(at, toBf16(scale));
          scale = fromBf16(toBf16(scale));
        } else {
          put(at, scale);
        }
        if (format.zeros) {
          zero = random() % 17;
          put(geometry->zero(m, row, first / group), uint8_t(zero));
        }
        for (int64_t c = 0; c < group; ++c) {
          uint8_t code = random() & (format.element == Storage::I4 ? 15 : 255);
          if (format.element == Storage::F8E4M3 && (code & 0x7f) == 0x7f)
            code ^= 1; // 0x7f is no number
          auto [byte, shift] = geometry->code(m, row, first + c);
          w.bytes[byte] |= uint8_t(code << shift);
          values[c] = format.element == Storage::F8E4M3 ? fromF8(code) * scale
                                                        : float(int64_t(code) - zero) * scale;
        }
      }
  return w;
}

// The formats that kernels are tested with.
inline const WeightFormat kInt4{Storage::I4, 128, Storage::F16},
    kInt4Zeros{Storage::I4, 32, Storage::BF16, true}, kInt8{Storage::I8, 128, Storage::F16},
    kInt8Small{Storage::I8, 64, Storage::F32}, kFp8{Storage::F8E4M3, 128, Storage::F32};

} // namespace moe::codegen

#endif
