// Builds kernels for the tests, launches them, and packs weights.
#include "compiler/targets/cuda/TestPtx.h"
#include "compiler/targets/cuda/ToPtx.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/Verifier.h"
#include "runtime/device/cuda/Image.h"
#include "runtime/device/ptxsim/Driver.h"
#include <cstdlib>
#include <map>
#include <stdexcept>

namespace moe::codegen {

//===----------------------------------------------------------------------===//
// Kernels
//===----------------------------------------------------------------------===//

const cuda::DriverApi *testDriver() {
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

llvm::StringRef runnable(llvm::StringRef chip) {
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

PtxKernel::PtxKernel(const ChosenKernel<CudaKernel> &kernel, llvm::StringRef chip) {
  static std::map<std::pair<std::string, std::string>, PtxKernel> compiled;
  const std::string on = runnable(chip).str();
  auto [known, isNew] = compiled.try_emplace({kernel.name, on}, PtxKernel());
  if (isNew)
    known->second.compile(kernel, on);
  *this = known->second;
}

void PtxKernel::compile(const ChosenKernel<CudaKernel> &kernel, llvm::StringRef chip) {
  target = *cudaTarget(chip);
  name = kernel.name;
  operands = kernel.operands;
  mlir::MLIRContext context;
  context.loadDialect<mlir::arith::ArithDialect, mlir::LLVM::LLVMDialect, mlir::math::MathDialect,
                      mlir::scf::SCFDialect, mlir::vector::VectorDialect>();
  auto ir = emitKernel(&context, kernel, target);
  if (!ir) {
    ADD_FAILURE() << name << " was not built";
    return;
  }
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
  parse();
}

PtxKernel::PtxKernel(const CodeImage &image)
    : target(*cudaTarget(image.features.back())), ptx(image.code.data()) {
  parse();
}

void PtxKernel::select(llvm::StringRef kernel, const GridLaunch &launch) {
  name = kernel.str();
  threads = launch.threads;
  sharedBytes = launch.sharedBytes;
  blocksPerSm = launch.blocksPerSm;
  dependent = launch.dependent;
}

void PtxKernel::parse() {
  auto parsed = ptxsim::parse(ptx);
  if (parsed)
    module = std::move(*parsed);
  else
    ADD_FAILURE() << parsed.error().message << "\n" << ptx;
}

void PtxKernel::expectAssembles(int64_t registers) const {
  EXPECT_LE(sharedBytes, target.sharedBytes) << name << " on " << target.chip;
  static std::map<std::pair<std::string, std::string>, std::pair<Assembled, std::string>> known;
  auto found = known.find({target.chip, ptx});
  if (found == known.end()) {
    auto ptxas = findPtxas();
    ASSERT_TRUE(bool(ptxas)) << llvm::toString(ptxas.takeError());
    if (!*ptxas)
      return;
    auto cubin = assemble(**ptxas, ptx, target);
    ASSERT_TRUE(bool(cubin)) << llvm::toString(cubin.takeError());
    found = known.insert({{target.chip, ptx}, {cubin->kernels[name], cubin->warnings}}).first;
  }
  const auto &[report, warnings] = found->second;
  EXPECT_EQ(report.spillBytes, 0) << name << " on " << target.chip;
  EXPECT_GT(report.registers, 0);
  EXPECT_LE(report.registers, registers) << name << " on " << target.chip;
  EXPECT_EQ(warnings.find("C75"), std::string::npos) << warnings;
}

//===----------------------------------------------------------------------===//
// Launches
//===----------------------------------------------------------------------===//

PtxBench::PtxBench(uint64_t seed) {
  options.seed = seed;
  if (!testDriver())
    return;
  auto opened = cuda::Gpu::open(*testDriver(), "gpu", 0);
  if (!opened)
    throw std::runtime_error(opened.error().message);
  gpu = *opened;
}

uint64_t PtxBench::room(uint64_t bytes, std::string name) {
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

uint64_t PtxBench::room(uint64_t bytes, std::string name, const ptxsim::Source &source) {
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

void PtxBench::copyIn(uint64_t to, std::span<const std::byte> bytes) {
  if (bytes.empty())
    return;
  Status status =
      gpu ? gpu->check(gpu->api.cuMemcpyHtoDAsync(to, bytes.data(), bytes.size(), nullptr), "copy")
          : memory.copyIn(to, bytes);
  EXPECT_TRUE(status) << status.error().message;
}

void PtxBench::copyOut(std::span<std::byte> to, uint64_t from, bool written) {
  Status status = ok();
  if (gpu && !to.empty()) {
    status =
        gpu->check(gpu->api.cuMemcpyDtoHAsync(to.data(), from, to.size(), nullptr), "copy back");
    if (status)
      status = gpu->check(gpu->api.cuStreamSynchronize(nullptr), "copy back");
  } else if (!gpu) {
    status = memory.copyOut(to, from, written);
  }
  EXPECT_TRUE(status) << status.error().message;
}

void PtxBench::expectZeros(uint64_t from, uint64_t bytes) {
  EXPECT_EQ(get<uint8_t>(from, bytes), std::vector<uint8_t>(bytes));
}

void PtxBench::run(const PtxKernel &kernel, int64_t blocks, llvm::ArrayRef<PtxArgument> arguments,
                   cuda::StepInfo step) {
  std::vector<uint64_t> operands;
  for (Operand operand : kernel.operands) {
    auto argument =
        llvm::find_if(arguments, [&](const PtxArgument &a) { return a.operand == operand; });
    ASSERT_NE(argument, arguments.end())
        << kernel.name << " was not given " << nameOf(operand).str();
    operands.push_back(argument->address);
  }
  ASSERT_EQ(arguments.size(), operands.size()) << kernel.name << " was given what it does not take";
  Status status = tryRunAt(kernel, blocks, std::move(operands), step);
  ASSERT_TRUE(status) << kernel.name << ": " << status.error().message;
}

Status PtxBench::tryRunAt(const PtxKernel &kernel, int64_t blocks, std::vector<uint64_t> operands,
                          cuda::StepInfo step) {
  operands.push_back(put(std::vector<cuda::StepInfo>{step}, "step"));
  return gpu ? launch(kernel, blocks, operands) : simulate(kernel, blocks, operands);
}

Status PtxBench::simulate(const PtxKernel &kernel, int64_t blocks,
                          const std::vector<uint64_t> &operands) {
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

Status PtxBench::launch(const PtxKernel &kernel, int64_t blocks, std::vector<uint64_t> &operands) {
  Image image;
  image.target = kernel.target.name;
  image.code = std::as_bytes(std::span(kernel.ptx.c_str(), kernel.ptx.size() + 1));
  MOE_ASSIGN(loaded, cuda::loadImage(image, *gpu));
  cuda::CUfunction function = nullptr;
  MOE_TRY(gpu->check(
      gpu->api.cuModuleGetFunction(&function, loaded.module.get(), kernel.name.c_str()), "load"));
  MOE_TRY(gpu->check(gpu->api.cuFuncSetAttribute(function,
                                                 cuda::FunctionAttribute::maxDynamicSharedSizeBytes,
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

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

Halves toFragments(const Floats &matrix, int64_t rows, int64_t columns) {
  int64_t tiles = padded(columns) / 16;
  Halves out(stripsOf(rows) * tiles * 256);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) {
      int64_t r = row % 16, c = column % 16;
      int64_t lane = r % 8 * 4 + c % 8 / 2, pair = r / 8 + c / 8 * 2;
      out[((row / 16 * tiles + column / 16) * 32 + lane) * 8 + pair * 2 + c % 2] =
          toBf16(matrix[row * columns + column]);
    }
  return out;
}

TestWeight testWeight(std::mt19937 &random, const WeightFormat &format, int64_t matrices,
                      int64_t rows, int64_t columns, float size, WeightLayout::Kind kind) {
  const int64_t shape[] = {matrices, rows, columns};
  return testWeight(random, *WeightLayout::create(shape, format, kind), size);
}

} // namespace moe::codegen
