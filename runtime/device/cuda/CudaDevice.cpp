// All that a step can need is prepared when the executor is created: addresses, grids, and a graph
// of each program's launches. A step then is one copy of its inputs, one graph, and a copy of each
// part of the outputs that is wanted.
#include "runtime/device/cuda/CudaDevice.h"

#include "runtime/device/ProgramExecutor.h"
#include "runtime/device/cuda/Image.h"
#include "runtime/device/cuda/KernelAbi.h"
#include "runtime/device/cuda/Weights.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace moe::cuda {
namespace {

uint64_t activationBytes(const ProgramSizes &sizes) {
  return std::accumulate(sizes.outputBytes.begin(), sizes.outputBytes.end(),
                         sizes.arenaBytes + sizes.counterBytes);
}

struct BoundKernel {
  CUfunction function = nullptr;
  KernelLaunch launch;
  uint32_t mostBlocks = 1; // resident together
};

class CudaExecutor final : public ProgramExecutor {
public:
  static Result<std::unique_ptr<Executor>> create(std::shared_ptr<const Gpu> gpu,
                                                  const DevicePlan &plan,
                                                  const ExecutorOptions &options,
                                                  const CudaOptions &cuda);
  CudaExecutor(std::shared_ptr<const Gpu> gpu, const DevicePlan &plan,
               const ExecutorOptions &options)
      : ProgramExecutor(plan, options, /*headerBytes=*/sizeof(StepInfo)), gpu(std::move(gpu)) {}
  ~CudaExecutor() override;
  std::string description() const override { return about; }
  std::span<const std::byte> output(uint32_t index) const override {
    return {static_cast<const std::byte *>(hostOutputs[index].get()), sizes.outputBytes[index]};
  }

private:
  Status runProgram(const Step &step, size_t program) override;
  Status tryProgram(const Step &step, size_t program);
  Status prepare(const DevicePlan &plan, const CudaOptions &cuda);
  Status loadKernels(const DevicePlan &plan);
  Status loadKernel(const std::string &name, uint32_t operands, BoundKernel &kernel);
  Status allocate(const DevicePlan &plan);
  Error outOfMemory(const Error &error, const DevicePlan &plan, const CudaOptions &cuda) const;
  BufferAddresses<CUdeviceptr> bufferAddresses(const DevicePlan &plan) const;
  Result<GraphExec> record(const DevicePlan &plan, size_t program,
                           const BufferAddresses<CUdeviceptr> &buffers);
  Status launch(const DevicePlan &plan, size_t program,
                const BufferAddresses<CUdeviceptr> &buffers);
  Status upload(uint64_t begin, uint64_t end);

  const std::shared_ptr<const Gpu> gpu; // first: the context outlives what is in it
  std::string about;
  std::optional<Error> lost; // what ended it all

  Stream stream;
  Module module;
  std::vector<BoundKernel> kernels; // per kernel of the plan
  Weights weights;
  Memory arena, counters, inputBlock;
  HostMemory hostInputs;
  std::vector<Memory> outputs, pools;
  std::vector<HostMemory> hostOutputs;
  std::vector<GraphExec> graphs; // per program of the plan
};

Result<std::unique_ptr<Executor>> CudaExecutor::create(std::shared_ptr<const Gpu> gpu,
                                                       const DevicePlan &plan,
                                                       const ExecutorOptions &options,
                                                       const CudaOptions &cuda) {
  MOE_TRY(checkExecutor(plan, options, "cuda"));
  MOE_TRY(gpu->makeCurrent());
  auto executor = std::make_unique<CudaExecutor>(std::move(gpu), plan, options);
  if (Status status = executor->prepare(plan, cuda); !status)
    return status.error().code == Code::ResourceExhausted
               ? executor->outOfMemory(status.error(), plan, cuda)
               : status.error();
  return std::unique_ptr<Executor>(std::move(executor));
}

CudaExecutor::~CudaExecutor() {
  (void)gpu->makeCurrent(); // frees what it can of a lost device
  if (stream.get())
    (void)gpu->api.cuStreamSynchronize(stream.get());
}

Status CudaExecutor::prepare(const DevicePlan &plan, const CudaOptions &cuda) {
  MOE_ASSIGN(made, gpu->makeStream());
  stream = std::move(made);
  MOE_TRY(loadKernels(plan)); // before the weights: it is quick, and may refuse the plan
  MOE_TRY(allocate(plan));
  MOE_ASSIGN(ranges, weightRanges(plan));
  MOE_ASSIGN(uploaded, Weights::upload(*gpu, plan, std::move(ranges), stream.get(), cuda.progress));
  weights = std::move(uploaded);
  const BufferAddresses<CUdeviceptr> buffers = bufferAddresses(plan);
  for (size_t i = 0; i < plan.programs.size(); ++i) {
    MOE_ASSIGN(graph, record(plan, i, buffers));
    graphs.push_back(std::move(graph));
  }
  return ok();
}

Status CudaExecutor::loadKernels(const DevicePlan &plan) {
  MOE_ASSIGN(chosen, chooseImage(plan.images, *gpu));
  const Image &image = plan.images[chosen];
  MOE_ASSIGN(loaded, loadImage(image, *gpu));
  module = std::move(loaded.module);
  about = image.target + (loaded.assembled ? ", assembled" : "") + ", on " + gpu->label;
  kernels.resize(plan.kernels.size());
  for (const Program &program : plan.programs)
    for (const Call &call : program.calls) {
      uint32_t i = call.kernel;
      if (i >= kernels.size() || i >= image.launches.size() || i >= image.entries.size() ||
          image.entries[i] == Image::absent || call.operands.size() != plan.kernels[i].operands)
        return missingKernel(image.target, i);
      if (kernels[i].function)
        continue;
      kernels[i].launch = image.launches[i];
      MOE_TRY(loadKernel(plan.kernels[i].name, plan.kernels[i].operands, kernels[i]));
    }
  return ok();
}

// Everything that could make a launch fail, before the weights take their time.
Status CudaExecutor::loadKernel(const std::string &name, uint32_t operands, BoundKernel &kernel) {
  const DriverApi &api = gpu->api;
  const KernelLaunch &launch = kernel.launch;
  const std::string what = "kernel '" + name + "'";
  CUresult found = api.cuModuleGetFunction(&kernel.function, module.get(), name.c_str());
  if (found == CUresult::notFound)
    return Error{Code::InvalidPlan, "the plan's kernels for " + about + " lack " + what};
  MOE_TRY(gpu->check(found, "find " + what));
  int threads = 0, shared = 0, registers = 0;
  const std::pair<FunctionAttribute, int *> attributes[] = {
      {FunctionAttribute::maxThreadsPerBlock, &threads},
      {FunctionAttribute::sharedSizeBytes, &shared},
      {FunctionAttribute::registers, &registers},
  };
  for (auto [attribute, value] : attributes)
    MOE_TRY(gpu->check(api.cuFuncGetAttribute(value, attribute, kernel.function),
                       "read the limits of " + what));
  threads = std::min(threads, gpu->maxThreads);
  const auto refuse = [&](const std::string &asks, const std::string &has) {
    return Error{Code::Unavailable, what + " wants " + asks + ", and " + gpu->label + " has " +
                                        has + "; compile the plan again for this device"};
  };
  if (int64_t(launch.threads) > threads || launch.threads == 0)
    return refuse(std::to_string(launch.threads) + " threads of " + std::to_string(registers) +
                      " registers a block",
                  "room for " + std::to_string(threads));
  if (uint64_t(launch.sharedBytes) + shared > uint64_t(gpu->maxShared))
    return refuse(std::to_string(launch.sharedBytes + uint64_t(shared)) +
                      " bytes of shared memory a block",
                  std::to_string(gpu->maxShared));
  if (launch.sharedBytes + uint64_t(shared) > 48 * 1024)
    MOE_TRY(gpu->check(api.cuFuncSetAttribute(kernel.function,
                                              FunctionAttribute::maxDynamicSharedSizeBytes,
                                              int(launch.sharedBytes)),
                       "reserve shared memory for " + what));

  // The parameters are addresses of 8 bytes, and no more of them.
  if (api.cuFuncGetParamInfo) {
    size_t offset = 0, bytes = 0, count = 0;
    CUresult result = CUresult::success;
    while (count <= operands + 1 &&
           (result = api.cuFuncGetParamInfo(kernel.function, count, &offset, &bytes)) ==
               CUresult::success &&
           bytes == 8 && offset == 8 * count)
      ++count;
    if (result != CUresult::success && result != CUresult::invalidValue &&
        result != CUresult::notSupported)
      MOE_TRY(gpu->check(result, "read the parameters of " + what));
    if (result != CUresult::notSupported &&
        (result == CUresult::success || count != size_t(operands) + 1))
      return Error{Code::InvalidPlan,
                   what + " does not take the " + std::to_string(operands + 1) +
                       " addresses that the plan passes to it; compile the plan again"};
  }

  // A kernel may wait for its own blocks, so no more are launched than are resident together.
  int resident = int(launch.blocksPerSm);
  CUresult result = api.cuOccupancyMaxActiveBlocksPerMultiprocessor(
      &resident, kernel.function, int(launch.threads), launch.sharedBytes);
  if (result != CUresult::notSupported)
    MOE_TRY(gpu->check(result, "read the occupancy of " + what));
  resident = std::min(resident, int(launch.blocksPerSm));
  if (resident < 1)
    return refuse("a multiprocessor with room for " + std::to_string(launch.threads) +
                      " threads of " + std::to_string(registers) + " registers and " +
                      std::to_string(launch.sharedBytes + uint64_t(shared)) +
                      " bytes of shared memory",
                  "less");
  kernel.mostBlocks = uint32_t(resident) * uint32_t(gpu->multiprocessors);
  return ok();
}

Status CudaExecutor::allocate(const DevicePlan &plan) {
  const auto zero = [&](const Memory &memory, uint64_t bytes) -> Status {
    if (!bytes)
      return ok();
    return gpu->check(gpu->api.cuMemsetD8Async(memory.get(), 0, bytes, stream.get()),
                      "clear memory");
  };
  const auto take = [&](Memory &to, uint64_t bytes, const std::string &what) -> Status {
    MOE_ASSIGN(memory, gpu->allocate(bytes, what));
    to = std::move(memory);
    return ok();
  };
  MOE_TRY(take(arena, sizes.arenaBytes, "activations"));
  MOE_TRY(take(counters, sizes.counterBytes, "counters"));
  MOE_TRY(zero(counters, sizes.counterBytes));
  for (size_t i = 0; i < plan.outputs.size(); ++i) {
    const std::string what = "the output \"" + plan.outputs[i].name + "\" of a step";
    MOE_TRY(take(outputs.emplace_back(), sizes.outputBytes[i], what));
    MOE_ASSIGN(pinned, gpu->allocateHost(sizes.outputBytes[i], what));
    hostOutputs.push_back(std::move(pinned));
  }

  for (size_t i = 0; i < plan.pools.size(); ++i) {
    const uint64_t bytes = uint64_t(options.poolPages[i]) * plan.pools[i].pageBytes;
    Memory &memory = pools.emplace_back();
    MOE_TRY(take(memory, bytes, "KV pages of the pool \"" + plan.pools[i].name + "\""));
    MOE_TRY(zero(memory, bytes));
  }

  const uint64_t block = inputs.blockBytes();
  MOE_TRY(take(inputBlock, block, "the inputs of a step"));
  MOE_TRY(zero(inputBlock, block));
  MOE_ASSIGN(pinnedInputs, gpu->allocateHost(block, "the inputs of a step"));
  hostInputs = std::move(pinnedInputs);
  std::memset(hostInputs.get(), 0, block); // as on the device: only differences are copied
  return ok();
}

// The error of an allocation, with the sum that it was a part of.
Error CudaExecutor::outOfMemory(const Error &error, const DevicePlan &plan,
                                const CudaOptions &cuda) const {
  uint64_t weightBytes = 0, cache = 0;
  if (auto ranges = weightRanges(plan))
    for (const WeightRange &range : *ranges)
      weightBytes += range.end - range.begin;
  for (size_t i = 0; i < plan.pools.size(); ++i)
    cache += uint64_t(options.poolPages[i]) * plan.pools[i].pageBytes;
  size_t total = 0, free = 0;
  (void)gpu->api.cuMemGetInfo(&free, &total);
  return {Code::ResourceExhausted,
          error.message + "; the session needs " + bytesText(weightBytes) + " for weights, " +
              bytesText(cache) + " for the KV cache and " + bytesText(activationBytes(sizes)) +
              " for activations, the device has " + bytesText(total) +
              ": ask for less with --context, end what else uses the device, or choose --device "
              "cpu"};
}

BufferAddresses<CUdeviceptr> CudaExecutor::bufferAddresses(const DevicePlan &plan) const {
  BufferAddresses<CUdeviceptr> buffers{inputBlock.get(), arena.get(), counters.get(), {}, {}, {}};
  for (const Memory &output : outputs)
    buffers.outputs.push_back(output.get());
  for (uint32_t section = 0; section < plan.sections.size(); ++section)
    buffers.sections.push_back(weights.address(section));
  for (const Memory &pool : pools)
    buffers.pools.push_back(pool.get());
  return buffers;
}

Result<GraphExec> CudaExecutor::record(const DevicePlan &plan, size_t program,
                                       const BufferAddresses<CUdeviceptr> &buffers) {
  const DriverApi &api = gpu->api;
  // Capture of this thread's calls alone: other sessions may be at work.
  MOE_TRY(gpu->check(api.cuStreamBeginCapture(stream.get(), StreamCaptureMode::threadLocal),
                     "record a step"));
  Status launched = launch(plan, program, buffers);
  CUgraph captured = nullptr;
  CUresult ended = api.cuStreamEndCapture(stream.get(), &captured);
  Graph graph(api, captured);
  MOE_TRY(std::move(launched));
  MOE_TRY(gpu->check(ended, "record a step"));
  CUgraphExec exec = nullptr;
  MOE_TRY(gpu->check(api.cuGraphInstantiateWithFlags(&exec, graph.get(), 0),
                     "make a graph of " + std::to_string(plan.programs[program].calls.size()) +
                         " kernels"));
  return GraphExec(api, exec);
}

Status CudaExecutor::launch(const DevicePlan &plan, size_t program,
                            const BufferAddresses<CUdeviceptr> &buffers) {
  // Graphs keep programmatic dependencies since CUDA 12.3; without them kernels wait in full.
  const bool programmatic = gpu->major >= 9 && gpu->driverVersion >= 12030;
  std::vector<CUdeviceptr> addresses;
  std::vector<void *> parameters;
  const std::vector<Call> &calls = plan.programs[program].calls;
  for (const Call &call : calls) {
    const BoundKernel &kernel = kernels[call.kernel];
    addresses.clear();
    for (const Operand &operand : call.operands) {
      MOE_ASSIGN(address, addressOf(buffers, operand, program));
      addresses.push_back(address);
    }
    addresses.push_back(inputBlock.get()); // StepInfo
    parameters.clear();
    for (CUdeviceptr &address : addresses)
      parameters.push_back(&address);

    LaunchAttribute attribute{};
    attribute.id = LaunchAttributeId::programmaticStreamSerialization;
    attribute.value.programmaticStreamSerializationAllowed = 1;
    LaunchConfig config{};
    config.gridDimX = std::clamp<uint32_t>(call.blocks, 1, kernel.mostBlocks);
    config.gridDimY = config.gridDimZ = 1;
    config.blockDimX = kernel.launch.threads;
    config.blockDimY = config.blockDimZ = 1;
    config.sharedMemBytes = kernel.launch.sharedBytes;
    config.hStream = stream.get();
    if (programmatic && kernel.launch.dependent && &call != calls.data()) {
      config.attrs = &attribute;
      config.numAttrs = 1;
    }
    MOE_TRY(
        gpu->check(gpu->api.cuLaunchKernelEx(&config, kernel.function, parameters.data(), nullptr),
                   "launch a kernel"));
  }
  return ok();
}

Status CudaExecutor::upload(uint64_t begin, uint64_t end) {
  return gpu->check(gpu->api.cuMemcpyHtoDAsync(inputBlock.get() + begin,
                                               static_cast<std::byte *>(hostInputs.get()) + begin,
                                               end - begin, stream.get()),
                    "copy the inputs of a step");
}

Status CudaExecutor::tryProgram(const Step &step, size_t program) {
  const DriverApi &api = gpu->api;
  MOE_TRY(gpu->makeCurrent());
  const StepInfo info{step.tokens, step.rows, options.tableStride, 0};
  std::memcpy(hostInputs.get(), &info, sizeof info);
  const std::span<const StepInputs::Range> changed =
      inputs.fill(step, program, static_cast<std::byte *>(hostInputs.get()));
  // Mostly one copy. Inputs that stay lie behind those of the largest program.
  MOE_TRY(upload(0, inputs.packedBytes(program)));
  for (const StepInputs::Range &range : changed)
    MOE_TRY(upload(range.begin, range.end));
  MOE_TRY(gpu->check(api.cuGraphLaunch(graphs[program].get(), stream.get()), "start a step"));
  for (const TensorPart &part : step.wanted)
    MOE_TRY(gpu->check(
        api.cuMemcpyDtoHAsync(static_cast<std::byte *>(hostOutputs[part.index].get()) + part.offset,
                              outputs[part.index].get() + part.offset, part.bytes, stream.get()),
        "copy the outputs of a step"));
  return gpu->check(api.cuStreamSynchronize(stream.get()), "finish a step");
}

Status CudaExecutor::runProgram(const Step &step, size_t program) {
  if (lost)
    return *lost;
  if (Status run = tryProgram(step, program); !run) {
    // Counters and cache are in no known state, and most such errors stay.
    lost = Error{run.error().code, run.error().message + "; the session is lost, make a new one"};
    return *lost;
  }
  return ok();
}

class CudaDevice final : public Device {
public:
  CudaDevice(std::shared_ptr<const Gpu> gpu, CudaOptions options)
      : gpu(std::move(gpu)), options(std::move(options)) {}
  std::string name() const override { return options.name; }
  std::string planDevice() const override { return "cuda"; }

  Status supports(const DevicePlan &plan) const override {
    MOE_TRY(chooseImage(plan.images, *gpu));
    return ok();
  }

  Result<std::optional<DeviceMemory>> memory(const DevicePlan &plan) const override {
    MOE_TRY(gpu->makeCurrent());
    size_t free = 0, total = 0;
    MOE_TRY(gpu->check(gpu->api.cuMemGetInfo(&free, &total), "read how much memory is free"));
    // Code, graphs and the gaps between allocations.
    const uint64_t reserve = std::min<uint64_t>(uint64_t(256) << 20, total / 64);
    DeviceMemory memory{gpu->label, total, free - std::min<uint64_t>(free, reserve), 0, 0};
    MOE_ASSIGN(ranges, weightRanges(plan));
    for (const WeightRange &range : ranges)
      memory.weights += range.end - range.begin;
    memory.activations = activationBytes(sizesOf(plan));
    return std::optional<DeviceMemory>(memory);
  }

  Result<std::unique_ptr<Executor>> createExecutor(const DevicePlan &plan,
                                                   const ExecutorOptions &executor) override {
    return CudaExecutor::create(gpu, plan, executor, options);
  }

private:
  std::shared_ptr<const Gpu> gpu;
  CudaOptions options;
};

} // namespace

Result<std::unique_ptr<Device>> openCudaDevice(const DriverApi &api, CudaOptions options) {
  MOE_ASSIGN(gpu, Gpu::open(api, options.name, options.index));
  return std::unique_ptr<Device>(std::make_unique<CudaDevice>(std::move(gpu), std::move(options)));
}

} // namespace moe::cuda
