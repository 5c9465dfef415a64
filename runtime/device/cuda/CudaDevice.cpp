// All that a step can need is prepared when the executor is created: addresses, grids, and a graph
// of each program's launches. A step then is one copy of its inputs, one graph, and one copy of the
// ids or logits that are wanted.
#include "runtime/device/cuda/CudaDevice.h"

#include "runtime/device/cuda/Image.h"
#include "runtime/device/cuda/KernelAbi.h"
#include "runtime/device/cuda/Weights.h"

#include <algorithm>
#include <cstring>

namespace moe::cuda {
namespace {

constexpr uint64_t kAlignment = 256;
constexpr int kInputs = 7;

uint64_t aligned(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// What all programs together need.
struct Sizes {
  int32_t tokens = 0, rows = 0;
  uint64_t arena = 0, counters = 0;
};

Sizes sizesOf(const DevicePlan &plan) {
  Sizes sizes;
  for (const Program &program : plan.programs) {
    sizes.tokens = std::max(sizes.tokens, program.tokens);
    sizes.rows = std::max(sizes.rows, program.rows);
    sizes.arena = std::max(sizes.arena, program.arenaBytes);
    sizes.counters = std::max(sizes.counters, program.counterBytes);
  }
  return sizes;
}

uint64_t idsBytes(const Sizes &sizes) {
  return uint64_t(std::max(sizes.rows, 1)) * sizeof(int32_t);
}
uint64_t logitsBytes(const Sizes &sizes, int64_t vocab) {
  return uint64_t(std::max(sizes.rows, 1)) * uint64_t(vocab) * sizeof(float);
}
uint64_t outputBytes(const Sizes &sizes, int64_t vocab) {
  return logitsBytes(sizes, vocab) + idsBytes(sizes);
}

// Whether every program tells ids.
bool choosesIds(const DevicePlan &plan) {
  return std::all_of(plan.programs.begin(), plan.programs.end(), [](const Program &program) {
    return std::any_of(program.calls.begin(), program.calls.end(), [](const Call &call) {
      return std::any_of(call.operands.begin(), call.operands.end(),
                         [](const Operand &operand) { return operand.kind == OperandKind::Ids; });
    });
  });
}

// Where the inputs of a program lie in the block of inputs: StepInfo, the step's own inputs, packed
// so that a small step is a small copy, and after those of the largest program the tables.
struct InputLayout {
  uint64_t offsets[kInputs] = {};
  uint64_t end = 0; // of the step's own inputs

  InputLayout(int32_t tokens, int32_t rows) : end(aligned(sizeof(StepInfo))) {
    for (InputName name :
         {InputName::Tokens, InputName::Positions, InputName::Sequences, InputName::Rows}) {
      offsets[size_t(name)] = end;
      end += aligned(uint64_t(name == InputName::Rows ? rows : tokens) * sizeof(int32_t));
    }
    offsets[size_t(InputName::Sampling)] = end;
    end += aligned(uint64_t(rows) * sizeof(RowSampling));
  }
};

struct BoundKernel {
  CUfunction function = nullptr;
  KernelLaunch launch;
  uint32_t mostBlocks = 1; // resident together
};

struct BoundProgram {
  int32_t tokens, rows;
  InputLayout layout;
  GraphExec graph;
};

class CudaExecutor final : public Executor {
public:
  static Result<std::unique_ptr<Executor>> create(std::shared_ptr<const Gpu> gpu,
                                                  const DevicePlan &plan,
                                                  const ExecutorOptions &options,
                                                  const CudaOptions &cuda);
  CudaExecutor(std::shared_ptr<const Gpu> gpu) : gpu(std::move(gpu)) {}
  ~CudaExecutor() override;
  Result<StepResult> run(const Step &step) override;
  bool samples() const override { return choosing; }
  int32_t maxTokens() const override { return sizes.tokens; }
  int32_t maxRows() const override { return sizes.rows; }
  std::string description() const override { return about; }

private:
  Status prepare(const DevicePlan &plan, const CudaOptions &cuda);
  Status loadKernels(const DevicePlan &plan);
  Status loadKernel(const std::string &name, uint32_t operands, BoundKernel &kernel);
  Status allocate(const DevicePlan &plan);
  Error outOfMemory(const Error &error, const DevicePlan &plan, const CudaOptions &cuda) const;
  Result<CUdeviceptr> addressOf(const Operand &operand, const InputLayout &layout) const;
  Result<GraphExec> record(const Program &program, const InputLayout &layout);
  Status launch(const Program &program, const InputLayout &layout);
  void copyInputs(const Step &step, const BoundProgram &program);
  void copySampling(const Step &step, const BoundProgram &program);
  Status fetchLogits(const Step &step);
  Result<StepResult> runStep(const Step &step, const BoundProgram &program);

  int32_t *hostInput(uint64_t offset) const {
    return reinterpret_cast<int32_t *>(static_cast<std::byte *>(hostInputs.get()) + offset);
  }

  const std::shared_ptr<const Gpu> gpu; // first: the context outlives what is in it
  ExecutorOptions options;
  int64_t vocab = 0;
  bool choosing = false;
  Sizes sizes;
  std::string about;
  uint64_t tableOffsets[kInputs] = {};       // of GlobalTable and ChunkedTable
  std::vector<InputName> tableOf;            // per pool of the plan
  uint64_t changedBegin = 0, changedEnd = 0; // bytes of the tables that this step changed
  std::optional<Error> lost;                 // what ended it all

  Stream stream;
  Module module;
  std::vector<BoundKernel> kernels; // per kernel of the plan
  Weights weights;
  Memory arena, counters, inputs, logits, ids;
  HostMemory hostInputs, hostLogits, hostIds;
  std::vector<Memory> pools;
  std::vector<BoundProgram> programs;
};

Result<std::unique_ptr<Executor>> CudaExecutor::create(std::shared_ptr<const Gpu> gpu,
                                                       const DevicePlan &plan,
                                                       const ExecutorOptions &options,
                                                       const CudaOptions &cuda) {
  if (plan.programs.empty())
    return Error{Code::InvalidPlan, "the plan has no step programs for device cuda"};
  if (options.poolPages.size() != plan.pools.size() || options.maxSequences < 1 ||
      options.tableStride < 1)
    return Error{Code::InvalidArgument, "an executor needs at least one sequence and page, and a "
                                        "size for each cache pool of the plan"};
  MOE_TRY(gpu->makeCurrent());
  auto executor = std::make_unique<CudaExecutor>(std::move(gpu));
  executor->options = options;
  executor->vocab = plan.vocab;
  executor->choosing = choosesIds(plan);
  executor->sizes = sizesOf(plan);
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
  for (const Program &program : plan.programs) {
    InputLayout layout(program.tokens, program.rows);
    for (InputName table : {InputName::GlobalTable, InputName::ChunkedTable})
      layout.offsets[size_t(table)] = tableOffsets[size_t(table)];
    MOE_ASSIGN(graph, record(program, layout));
    programs.push_back({program.tokens, program.rows, layout, std::move(graph)});
  }
  std::sort(programs.begin(), programs.end(), [](const BoundProgram &a, const BoundProgram &b) {
    return a.tokens != b.tokens ? a.tokens < b.tokens : a.rows < b.rows;
  });
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
        return Error{Code::InvalidPlan, image.target + " has no kernel number " +
                                            std::to_string(i) + " as a step program calls it"};
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
  MOE_TRY(take(arena, sizes.arena, "activations"));
  MOE_TRY(take(counters, sizes.counters, "counters"));
  MOE_TRY(zero(counters, sizes.counters));
  MOE_TRY(take(logits, logitsBytes(sizes, vocab), "logits"));
  MOE_ASSIGN(pinnedLogits, gpu->allocateHost(logitsBytes(sizes, vocab), "logits"));
  hostLogits = std::move(pinnedLogits);
  MOE_TRY(take(ids, idsBytes(sizes), "ids"));
  MOE_ASSIGN(pinnedIds, gpu->allocateHost(idsBytes(sizes), "ids"));
  hostIds = std::move(pinnedIds);

  for (size_t i = 0; i < plan.pools.size(); ++i) {
    const CachePool &pool = plan.pools[i];
    uint64_t bytes;
    if (options.poolPages[i] < 0 ||
        __builtin_mul_overflow(uint64_t(options.poolPages[i]), pool.pageBytes, &bytes))
      return Error{Code::ResourceExhausted, "the KV cache has more bytes than addresses"};
    Memory memory;
    MOE_TRY(take(memory, bytes, "KV pages of the pool \"" + pool.name + "\""));
    MOE_TRY(zero(memory, bytes));
    pools.push_back(std::move(memory));
    tableOf.push_back(pool.name == "chunked" ? InputName::ChunkedTable : InputName::GlobalTable);
  }

  uint64_t end = 0;
  for (const Program &program : plan.programs)
    end = std::max(end, InputLayout(program.tokens, program.rows).end);
  for (InputName table : {InputName::GlobalTable, InputName::ChunkedTable}) {
    tableOffsets[size_t(table)] = end;
    end +=
        aligned(uint64_t(options.maxSequences) * uint64_t(options.tableStride) * sizeof(int32_t));
  }
  MOE_TRY(take(inputs, end, "the inputs of a step"));
  MOE_TRY(zero(inputs, end));
  MOE_ASSIGN(pinnedInputs, gpu->allocateHost(end, "the inputs of a step"));
  hostInputs = std::move(pinnedInputs);
  std::memset(hostInputs.get(), 0, end); // as on the device: only differences are copied
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
              bytesText(cache) + " for the KV cache and " +
              bytesText(sizes.arena + sizes.counters + outputBytes(sizes, vocab)) +
              " for activations, the device has " + bytesText(total) +
              ": ask for less with --context, end what else uses the device, or choose --device "
              "cpu"};
}

Result<CUdeviceptr> CudaExecutor::addressOf(const Operand &operand,
                                            const InputLayout &layout) const {
  switch (operand.kind) {
  case OperandKind::Input:
    if (operand.index < kInputs)
      return inputs.get() + layout.offsets[operand.index];
    break;
  case OperandKind::Arena:
    if (operand.offset < sizes.arena)
      return arena.get() + operand.offset;
    break;
  case OperandKind::Weight:
    return weights.address(operand.index, operand.offset);
  case OperandKind::Cache:
    if (operand.index < pools.size())
      return pools[operand.index].get() + operand.offset;
    break;
  case OperandKind::Logits:
    return logits.get();
  case OperandKind::Ids:
    return ids.get();
  case OperandKind::Counters:
    if (operand.offset < sizes.counters)
      return counters.get() + operand.offset;
    break;
  }
  return Error{Code::InvalidPlan, "a kernel call has an operand that does not exist"};
}

Result<GraphExec> CudaExecutor::record(const Program &program, const InputLayout &layout) {
  const DriverApi &api = gpu->api;
  // Capture of this thread's calls alone: other sessions may be at work.
  MOE_TRY(gpu->check(api.cuStreamBeginCapture(stream.get(), StreamCaptureMode::threadLocal),
                     "record a step"));
  Status launched = launch(program, layout);
  CUgraph captured = nullptr;
  CUresult ended = api.cuStreamEndCapture(stream.get(), &captured);
  Graph graph(api, captured);
  MOE_TRY(std::move(launched));
  MOE_TRY(gpu->check(ended, "record a step"));
  CUgraphExec exec = nullptr;
  MOE_TRY(gpu->check(api.cuGraphInstantiateWithFlags(&exec, graph.get(), 0),
                     "make a graph of " + std::to_string(program.calls.size()) + " kernels"));
  return GraphExec(api, exec);
}

Status CudaExecutor::launch(const Program &program, const InputLayout &layout) {
  // Graphs keep programmatic dependencies since CUDA 12.3; without them kernels wait in full.
  const bool programmatic = gpu->major >= 9 && gpu->driverVersion >= 12030;
  std::vector<CUdeviceptr> addresses;
  std::vector<void *> parameters;
  for (const Call &call : program.calls) {
    const BoundKernel &kernel = kernels[call.kernel];
    addresses.clear();
    for (const Operand &operand : call.operands) {
      MOE_ASSIGN(address, addressOf(operand, layout));
      addresses.push_back(address);
    }
    addresses.push_back(inputs.get()); // StepInfo
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
    if (programmatic && kernel.launch.dependent && &call != program.calls.data()) {
      config.attrs = &attribute;
      config.numAttrs = 1;
    }
    MOE_TRY(
        gpu->check(gpu->api.cuLaunchKernelEx(&config, kernel.function, parameters.data(), nullptr),
                   "launch a kernel"));
  }
  return ok();
}

void CudaExecutor::copyInputs(const Step &step, const BoundProgram &program) {
  const StepInfo info{int32_t(step.tokens.size()), int32_t(step.rows.size()), options.tableStride,
                      0};
  std::memcpy(hostInputs.get(), &info, sizeof info);
  auto copy = [&](InputName name, std::span<const int32_t> values) {
    if (!values.empty())
      std::memcpy(hostInput(program.layout.offsets[size_t(name)]), values.data(),
                  values.size_bytes());
  };
  copy(InputName::Tokens, step.tokens);
  copy(InputName::Positions, step.positions);
  copy(InputName::Sequences, step.sequences);
  copy(InputName::Rows, step.rows);
  copySampling(step, program);
  // Of the tables what the step can look at, up to the page of each sequence's last token; most
  // steps change nothing there.
  changedBegin = UINT64_MAX;
  changedEnd = 0;
  for (size_t i = 0; i < step.tokens.size(); ++i) {
    if (i + 1 < step.tokens.size() && step.sequences[i + 1] == step.sequences[i] &&
        step.positions[i + 1] >= step.positions[i])
      continue;
    size_t row = size_t(step.sequences[i]) * options.tableStride;
    size_t bytes = (size_t(step.positions[i]) / 64 + 1) * sizeof(int32_t);
    for (size_t pool = 0; pool < pools.size(); ++pool) {
      uint64_t offset = tableOffsets[size_t(tableOf[pool])] + row * sizeof(int32_t);
      const int32_t *from = step.tables[pool].data() + row;
      if (!std::memcmp(hostInput(offset), from, bytes))
        continue;
      std::memcpy(hostInput(offset), from, bytes);
      changedBegin = std::min(changedBegin, offset);
      changedEnd = std::max(changedEnd, offset + bytes);
    }
  }
}

void CudaExecutor::copySampling(const Step &step, const BoundProgram &program) {
  auto *to = reinterpret_cast<RowSampling *>(
      hostInput(program.layout.offsets[size_t(InputName::Sampling)]));
  for (size_t row = 0; row < step.rows.size(); ++row) {
    const RowOutput wanted = step.outputs.empty() ? RowOutput{} : step.outputs[row];
    const Draw &draw = wanted.draw;
    const bool draws = wanted.id && draw.scale > 0;
    to[row] = {(wanted.logits || draws ? RowSampling::writesLogits : 0u) |
                   (draws ? RowSampling::draws : 0u),
               draw.scale,
               draw.random,
               draw.topP,
               draw.minWeight,
               draw.topK,
               0};
  }
}

// Copies each run of rows whose logits are wanted; mostly all of them or none.
Status CudaExecutor::fetchLogits(const Step &step) {
  const size_t rows = step.rows.size(), rowBytes = size_t(vocab) * sizeof(float);
  const auto wanted = [&](size_t row) { return step.outputs.empty() || step.outputs[row].logits; };
  for (size_t begin = 0, end; begin < rows; begin = end) {
    for (end = begin + 1; end < rows && wanted(end) == wanted(begin);)
      ++end;
    if (wanted(begin))
      MOE_TRY(gpu->check(
          gpu->api.cuMemcpyDtoHAsync(static_cast<std::byte *>(hostLogits.get()) + begin * rowBytes,
                                     logits.get() + begin * rowBytes, (end - begin) * rowBytes,
                                     stream.get()),
          "copy logits"));
  }
  return ok();
}

Result<StepResult> CudaExecutor::runStep(const Step &step, const BoundProgram &program) {
  const DriverApi &api = gpu->api;
  MOE_TRY(gpu->makeCurrent());
  copyInputs(step, program);
  const auto upload = [&](uint64_t begin, uint64_t end) {
    return gpu->check(
        api.cuMemcpyHtoDAsync(inputs.get() + begin, hostInput(begin), end - begin, stream.get()),
        "copy the inputs of a step");
  };
  // Mostly one copy. Tables lie behind the inputs of the largest program.
  MOE_TRY(upload(0, program.layout.end));
  if (changedBegin < changedEnd)
    MOE_TRY(upload(changedBegin, changedEnd));
  MOE_TRY(gpu->check(api.cuGraphLaunch(program.graph.get(), stream.get()), "start a step"));
  MOE_TRY(fetchLogits(step));
  const size_t rows = step.rows.size();
  if (std::any_of(step.outputs.begin(), step.outputs.end(), [](auto &row) { return row.id; }))
    MOE_TRY(gpu->check(
        api.cuMemcpyDtoHAsync(hostIds.get(), ids.get(), rows * sizeof(int32_t), stream.get()),
        "copy ids"));
  MOE_TRY(gpu->check(api.cuStreamSynchronize(stream.get()), "finish a step"));
  return StepResult{{static_cast<const float *>(hostLogits.get()), rows * size_t(vocab)},
                    {static_cast<const int32_t *>(hostIds.get()), rows}};
}

Result<StepResult> CudaExecutor::run(const Step &step) {
  if (lost)
    return *lost;
  MOE_TRY(checkStep(step, options, pools.size(), vocab, samples()));
  auto program = std::find_if(programs.begin(), programs.end(), [&](const BoundProgram &p) {
    return size_t(p.tokens) >= step.tokens.size() && size_t(p.rows) >= step.rows.size();
  });
  if (program == programs.end())
    return Error{Code::InvalidArgument, "a step of " + std::to_string(step.tokens.size()) +
                                            " tokens and " + std::to_string(step.rows.size()) +
                                            " rows of logits is larger than every program's"};
  auto result = runStep(step, *program);
  if (!result) // counters and cache are in no known state, and most such errors stay
    lost = Error{result.error().code, result.error().message + "; the session is lost, make a new "
                                                               "one"};
  return lost ? Result<StepResult>(*lost) : result;
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
    Sizes sizes = sizesOf(plan);
    memory.activations = sizes.arena + sizes.counters + outputBytes(sizes, plan.vocab);
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
