// Implements the launching and timing of single kernels.
#include "tools/gpu-check/Bench.h"

#include "runtime/device/cuda/Image.h"
#include "tools/gpu-check/Pattern.h"

#include <algorithm>

namespace moe::gpucheck {

// Larger than any L2 cache.
static constexpr uint64_t kFlushBytes = uint64_t(256) << 20;

Result<std::unique_ptr<Bench>> Bench::open(const cuda::DriverApi &api, int index,
                                           const std::string &target) {
  MOE_ASSIGN(gpu, cuda::Gpu::open(api, "cuda", index));
  if (!cuda::targetRunsOn(target, gpu->major, gpu->minor, /*assembled=*/false))
    return Error{Code::Unavailable,
                 gpu->label + " has compute capability " + std::to_string(gpu->major) + "." +
                     std::to_string(gpu->minor) + ", and the bundle's kernels are for " + target +
                     ": make one with gpu-bundle --target, of sm_80, sm_90a or sm_100a"};
  auto bench = std::make_unique<Bench>();
  bench->device = gpu;
  bench->target = target;
  MOE_TRY(gpu->makeCurrent());
  MOE_ASSIGN(stream, gpu->makeStream());
  bench->stream = std::move(stream);
  cuda::CUevent events[2];
  for (cuda::CUevent &event : events)
    MOE_TRY(gpu->check(api.cuEventCreate(&event, cuda::kEventDefault), "make an event"));
  bench->start = cuda::Event(api, events[0]);
  bench->stop = cuda::Event(api, events[1]);
  return bench;
}

Result<Kernel> Bench::load(const fb::Kernel &from) {
  Image image;
  image.target = "cuda:" + target;
  image.features = {"cuda", target};
  image.code = std::as_bytes(std::span(from.ptx()->c_str(), from.ptx()->size() + 1));
  if (from.cubin())
    image.cubin = std::as_bytes(std::span(from.cubin()->data(), from.cubin()->size()));
  MOE_ASSIGN(loaded, cuda::loadImage(image, *device));
  Kernel kernel;
  kernel.module = std::move(loaded.module);
  kernel.name = from.name()->str();
  kernel.threads = from.threads();
  kernel.sharedBytes = from.shared_bytes();
  kernel.blocksPerSm = from.blocks_per_sm();
  const cuda::DriverApi &api = device->api;
  MOE_TRY(device->check(
      api.cuModuleGetFunction(&kernel.function, kernel.module.get(), kernel.name.c_str()),
      "find " + kernel.name));
  MOE_TRY(device->check(api.cuFuncSetAttribute(kernel.function,
                                               cuda::FunctionAttribute::maxDynamicSharedSizeBytes,
                                               int(kernel.sharedBytes)),
                        "give " + kernel.name + " its shared memory"));
  MOE_TRY(device->check(api.cuFuncGetAttribute(&kernel.registers,
                                               cuda::FunctionAttribute::registers, kernel.function),
                        "ask for the registers of " + kernel.name));
  return kernel;
}

Result<cuda::CUdeviceptr> Bench::room(uint64_t bytes) {
  MOE_ASSIGN(allocated, device->allocate(std::max<uint64_t>(bytes, 16), "a buffer of a kernel"));
  memory.push_back(std::move(allocated));
  return memory.back().get();
}

Result<cuda::CUdeviceptr> Bench::filled(uint64_t bytes, uint8_t value) {
  MOE_ASSIGN(to, room(bytes));
  if (bytes)
    MOE_TRY(device->check(device->api.cuMemsetD8Async(to, value, bytes, stream.get()), "fill"));
  return to;
}

Result<cuda::CUdeviceptr> Bench::put(std::span<const std::byte> bytes) {
  MOE_ASSIGN(to, room(bytes.size()));
  if (!bytes.empty())
    MOE_TRY(device->check(
        device->api.cuMemcpyHtoDAsync(to, bytes.data(), bytes.size(), stream.get()), "copy"));
  MOE_TRY(device->check(device->api.cuStreamSynchronize(stream.get()), "copy"));
  return to;
}

const std::vector<std::byte> &Bench::pattern(const fb::Operand &operand) {
  auto [at, isNew] = patterns.try_emplace({operand.element(), operand.seed(), operand.scale()});
  if (isNew)
    at->second = patternPeriod(operand.element(), operand.seed(), operand.scale());
  return at->second;
}

Result<cuda::CUdeviceptr> Bench::put(const fb::Bundle &bundle, const fb::Operand &operand) {
  switch (operand.fill()) {
  case fb::Fill::Undefined:
    return room(operand.bytes());
  case fb::Fill::Zero:
    return filled(operand.bytes(), 0);
  case fb::Fill::Stored: {
    const auto *bytes = bundle.blobs()->Get(operand.blob())->bytes();
    return put(std::as_bytes(std::span(bytes->data(), bytes->size())));
  }
  case fb::Fill::Pattern:
    break;
  }
  MOE_ASSIGN(to, room(operand.bytes()));
  const std::vector<std::byte> &period = pattern(operand);
  for (uint64_t at = 0; at < operand.bytes(); at += period.size())
    MOE_TRY(device->check(
        device->api.cuMemcpyHtoDAsync(to + at, period.data(),
                                      std::min<uint64_t>(period.size(), operand.bytes() - at),
                                      stream.get()),
        "copy"));
  for (uint32_t i = 0; operand.at() && i < operand.at()->size(); ++i)
    MOE_TRY(device->check(device->api.cuMemcpyHtoDAsync(to + operand.at()->Get(i) * 4,
                                                        operand.put()->data() + i, 4, stream.get()),
                          "copy"));
  MOE_TRY(device->check(device->api.cuStreamSynchronize(stream.get()), "copy"));
  return to;
}

Status Bench::copyOut(void *to, cuda::CUdeviceptr from, uint64_t bytes) {
  MOE_TRY(device->check(device->api.cuMemcpyDtoHAsync(to, from, bytes, stream.get()), "copy back"));
  return device->check(device->api.cuStreamSynchronize(stream.get()), "copy back");
}

Status Bench::launch(const Kernel &kernel, uint64_t blocks,
                     std::vector<cuda::CUdeviceptr> &operands) {
  std::vector<void *> parameters;
  for (cuda::CUdeviceptr &operand : operands)
    parameters.push_back(&operand);
  cuda::LaunchConfig config{};
  config.gridDimX =
      unsigned(std::min<uint64_t>(blocks, uint64_t(kernel.blocksPerSm) * device->multiprocessors));
  config.gridDimY = config.gridDimZ = 1;
  config.blockDimX = kernel.threads;
  config.blockDimY = config.blockDimZ = 1;
  config.sharedMemBytes = kernel.sharedBytes;
  config.hStream = stream.get();
  return device->check(
      device->api.cuLaunchKernelEx(&config, kernel.function, parameters.data(), nullptr),
      "launch " + kernel.name);
}

Status Bench::run(const Kernel &kernel, uint64_t blocks, std::vector<cuda::CUdeviceptr> operands) {
  MOE_TRY(launch(kernel, blocks, operands));
  return device->check(device->api.cuStreamSynchronize(stream.get()), "run " + kernel.name);
}

Result<Time> Bench::time(const Kernel &kernel, uint64_t blocks,
                         std::vector<cuda::CUdeviceptr> operands, int repetitions) {
  const cuda::DriverApi &api = device->api;
  if (!flushed.get()) {
    MOE_ASSIGN(allocated, device->allocate(kFlushBytes, "what overwrites the L2 cache"));
    flushed = std::move(allocated);
  }
  const int warmUps = repetitions > 1 ? 3 : 0;
  std::vector<double> times;
  for (int i = 0; i < repetitions + warmUps; ++i) {
    MOE_TRY(device->check(api.cuMemsetD8Async(flushed.get(), uint8_t(i), kFlushBytes, stream.get()),
                          "overwrite the L2 cache"));
    MOE_TRY(device->check(api.cuEventRecord(start.get(), stream.get()), "record an event"));
    MOE_TRY(launch(kernel, blocks, operands));
    MOE_TRY(device->check(api.cuEventRecord(stop.get(), stream.get()), "record an event"));
    MOE_TRY(device->check(api.cuEventSynchronize(stop.get()), "run " + kernel.name));
    float milliseconds = 0;
    MOE_TRY(device->check(api.cuEventElapsedTime(&milliseconds, start.get(), stop.get()),
                          "read the device's clock"));
    if (i >= warmUps)
      times.push_back(milliseconds * 1000);
  }
  std::sort(times.begin(), times.end());
  return Time{times[times.size() / 2], times.front(), times.back()};
}

} // namespace moe::gpucheck
