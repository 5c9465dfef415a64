// Implements the launching and timing of single kernels.
#include "tools/gpu-check/Bench.h"
#include "compiler/targets/cuda/CudaKernels.h"
#include "compiler/targets/cuda/ToPtx.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OwningOpRef.h"
#include "runtime/device/cuda/Image.h"
#include <algorithm>

using namespace llvm;

namespace moe::gpucheck {

static llvm::Error failed(const Status &status) {
  return createStringError(status.error().message);
}

// Larger than any L2 cache.
static constexpr uint64_t kFlushBytes = uint64_t(256) << 20;

llvm::Error Bench::check(cuda::CUresult result, const char *what) {
  Status status = device->check(result, what);
  return status ? llvm::Error::success() : failed(status);
}

Expected<std::unique_ptr<Bench>> Bench::open(const cuda::DriverApi &api, int index) {
  auto gpu = cuda::Gpu::open(api, "cuda", index);
  if (!gpu)
    return createStringError(gpu.error().message);
  auto bench = std::make_unique<Bench>();
  bench->device = *gpu;
  for (StringRef name : codegen::cudaTargetNames())
    if (cuda::targetRunsOn(name.str(), (*gpu)->major, (*gpu)->minor, /*assembled=*/false)) {
      bench->cudaTarget = *codegen::cudaTarget(name);
      break;
    }
  if (bench->cudaTarget.name.empty())
    return createStringError((*gpu)->label + " has compute capability " +
                             std::to_string((*gpu)->major) + "." + std::to_string((*gpu)->minor) +
                             ", and the kernels need 8.0 or more");
  if (auto current = (*gpu)->makeCurrent(); !current)
    return failed(current);
  auto stream = (*gpu)->makeStream();
  if (!stream)
    return createStringError(stream.error().message);
  bench->stream = std::move(*stream);
  cuda::CUevent events[2];
  for (cuda::CUevent &event : events)
    if (auto error = bench->check(api.cuEventCreate(&event, cuda::kEventDefault), "make an event"))
      return error;
  bench->start = cuda::Event(api, events[0]);
  bench->stop = cuda::Event(api, events[1]);
  auto flushed = (*gpu)->allocate(kFlushBytes, "what overwrites the L2 cache");
  if (!flushed)
    return createStringError(flushed.error().message);
  bench->flushed = std::move(*flushed);
  return bench;
}

Expected<Kernel> Bench::load(const std::string &name, int64_t operands,
                             function_ref<void(codegen::CudaKernel &)> emit) {
  mlir::MLIRContext context;
  context.loadDialect<mlir::arith::ArithDialect, mlir::LLVM::LLVMDialect, mlir::math::MathDialect,
                      mlir::scf::SCFDialect, mlir::vector::VectorDialect>();
  auto module = mlir::OwningOpRef<mlir::ModuleOp>(
      mlir::ModuleOp::create(mlir::UnknownLoc::get(&context), name));
  codegen::CudaKernel builder(*module, cudaTarget, name, operands);
  emit(builder);
  builder.finish();
  auto function = module->lookupSymbol<mlir::LLVM::LLVMFuncOp>(name);
  auto attribute = [&](StringRef key) {
    return function->getAttrOfType<mlir::IntegerAttr>(key).getInt();
  };
  Kernel kernel;
  kernel.name = name;
  kernel.threads = attribute("moe.threads");
  kernel.sharedBytes = attribute("moe.shared_bytes");
  kernel.blocksPerSm = attribute("moe.blocks_per_sm");
  if (mlir::failed(codegen::lowerCudaKernels(*module)))
    return createStringError("lowering '" + name + "' failed");
  auto ptx = codegen::toPtx(*module, cudaTarget);
  if (!ptx)
    return ptx.takeError();

  Image image;
  image.target = cudaTarget.name;
  image.code = std::as_bytes(std::span(ptx->c_str(), ptx->size() + 1));
  auto loaded = cuda::loadImage(image, *device);
  if (!loaded)
    return createStringError(loaded.error().message);
  kernel.module = std::move(loaded->module);
  const cuda::DriverApi &api = device->api;
  if (auto error = check(
          api.cuModuleGetFunction(&kernel.function, kernel.module.get(), name.c_str()), "find it"))
    return error;
  if (auto error = check(api.cuFuncSetAttribute(kernel.function,
                                                cuda::FunctionAttribute::maxDynamicSharedSizeBytes,
                                                int(kernel.sharedBytes)),
                         "give a kernel its shared memory"))
    return error;
  if (auto error =
          check(api.cuFuncGetAttribute(&kernel.registers, cuda::FunctionAttribute::registers,
                                       kernel.function),
                "ask for registers"))
    return error;
  return kernel;
}

Expected<Kernel> Bench::load(const codegen::CudaSpec &spec) {
  return load(codegen::nameOf(spec), codegen::operandsOf(spec),
              [&](codegen::CudaKernel &k) { codegen::emitCudaKernel(k, spec); });
}

Expected<cuda::CUdeviceptr> Bench::room(uint64_t bytes) {
  auto allocated = device->allocate(std::max<uint64_t>(bytes, 16), "a buffer of a kernel");
  if (!allocated)
    return createStringError(allocated.error().message);
  memory.push_back(std::move(*allocated));
  return memory.back().get();
}

Expected<cuda::CUdeviceptr> Bench::filled(uint64_t bytes, uint8_t value) {
  auto to = room(bytes);
  if (!to)
    return to;
  if (auto error = check(device->api.cuMemsetD8Async(*to, value, bytes, stream.get()), "fill"))
    return error;
  return to;
}

Expected<cuda::CUdeviceptr> Bench::copyIn(const void *from, uint64_t bytes) {
  auto to = room(bytes);
  if (!to)
    return to;
  if (auto error = check(device->api.cuMemcpyHtoDAsync(*to, from, bytes, stream.get()), "copy"))
    return error;
  if (auto error = check(device->api.cuStreamSynchronize(stream.get()), "copy"))
    return error;
  return to;
}

llvm::Error Bench::copyOut(void *to, cuda::CUdeviceptr from, uint64_t bytes) {
  if (auto error = check(device->api.cuMemcpyDtoHAsync(to, from, bytes, stream.get()), "copy back"))
    return error;
  return check(device->api.cuStreamSynchronize(stream.get()), "copy back");
}

Expected<Time> Bench::time(const Kernel &kernel, int64_t blocks,
                           std::vector<cuda::CUdeviceptr> operands, int repetitions) {
  const cuda::DriverApi &api = device->api;
  std::vector<void *> parameters;
  for (cuda::CUdeviceptr &operand : operands)
    parameters.push_back(&operand);
  cuda::LaunchConfig launch{};
  launch.gridDimX =
      unsigned(std::min<int64_t>(blocks, kernel.blocksPerSm * device->multiprocessors));
  launch.gridDimY = launch.gridDimZ = 1;
  launch.blockDimX = unsigned(kernel.threads);
  launch.blockDimY = launch.blockDimZ = 1;
  launch.sharedMemBytes = unsigned(kernel.sharedBytes);
  launch.hStream = stream.get();
  std::vector<double> times;
  for (int i = 0; i < repetitions + 3; ++i) {
    if (auto error =
            check(api.cuMemsetD8Async(flushed.get(), uint8_t(i), kFlushBytes, stream.get()),
                  "overwrite the L2 cache"))
      return error;
    if (auto error = check(api.cuEventRecord(start.get(), stream.get()), "record an event"))
      return error;
    if (auto error =
            check(api.cuLaunchKernelEx(&launch, kernel.function, parameters.data(), nullptr),
                  kernel.name.c_str()))
      return error;
    if (auto error = check(api.cuEventRecord(stop.get(), stream.get()), "record an event"))
      return error;
    if (auto error = check(api.cuEventSynchronize(stop.get()), kernel.name.c_str()))
      return error;
    float milliseconds = 0;
    if (auto error = check(api.cuEventElapsedTime(&milliseconds, start.get(), stop.get()),
                           "read the device's clock"))
      return error;
    if (i >= 3) // the first ones warm up
      times.push_back(milliseconds * 1000);
  }
  std::sort(times.begin(), times.end());
  return Time{times[times.size() / 2], times.front(), times.back()};
}

} // namespace moe::gpucheck
