// Every operand of every program becomes a pointer once, when the executor is created; a step then
// copies its inputs to where those point and calls the kernels.
#include "runtime/device/cpu/CpuDevice.h"

#include "runtime/device/ProgramExecutor.h"
#include "runtime/device/SystemMemory.h"
#include "runtime/device/cpu/CpuFeatures.h"
#include "runtime/device/cpu/Memory.h"
#include "runtime/device/cpu/Processors.h"
#include "runtime/device/cpu/ThreadPool.h"
#include "runtime/device/cpu/WorkerGovernor.h"

#include <algorithm>
#include <chrono>
#include <optional>

namespace moe::cpu {
namespace {

struct BoundCall {
  Kernel kernel;
  void *const *operands; // into BoundPrograms::pointers
};

// The programs of a plan over one copy of its weights.
struct BoundPrograms {
  std::vector<void *> pointers;                 // operands of all calls
  std::vector<std::vector<BoundCall>> programs; // per program of the plan
};

class CpuExecutor final : public ProgramExecutor {
public:
  static Result<std::unique_ptr<Executor>>
  create(const DevicePlan &plan, const ExecutorOptions &options, const CpuOptions &cpu);
  CpuExecutor(const DevicePlan &plan, const ExecutorOptions &options)
      : ProgramExecutor(plan, options, /*headerBytes=*/0) {}
  std::string description() const override {
    return target + ", " + std::to_string(threads->workers()) +
           (threads->workers() == 1 ? " thread" : " threads") +
           (weights.description().empty() ? "" : ", " + weights.description());
  }

  std::span<const std::byte> output(uint32_t index) const override {
    return {outputs[index].data(), sizes.outputBytes[index]};
  }

private:
  Status runProgram(const Step &step, size_t program) override;
  Status loadCode(const DevicePlan &plan, const CpuOptions &cpu);
  Status allocate(const DevicePlan &plan);
  Status place(const DevicePlan &plan, const CpuOptions &cpu);
  Status bind(const DevicePlan &plan);
  static void runWorker(void *self, int worker);

  uint64_t scratchStride = 0;
  std::string target;
  std::vector<Kernel> kernels; // null: not in this image
  std::unique_ptr<ThreadPool> threads;
  std::optional<WorkerGovernor> governor;

  Memory code, arena, scratch, counters, inputBlock;
  std::vector<Memory> outputs, pools;
  PlacedWeights weights;
  std::vector<Node> nodes;          // over which memory is spread; none where it is not
  std::vector<BoundPrograms> bound; // per copy of the weights

  size_t current = 0; // program of the step at hand
  int workers = 0;
  StepInfo info{};
};

Result<std::unique_ptr<Executor>>
CpuExecutor::create(const DevicePlan &plan, const ExecutorOptions &options, const CpuOptions &cpu) {
  MOE_TRY(checkExecutor(plan, options, "cpu"));
  if (cpu.threads < 0 || cpu.threads > kMostThreads)
    return Error{Code::InvalidArgument,
                 std::to_string(cpu.threads) + " threads were asked for; give 1 to " +
                     std::to_string(kMostThreads) + ", or 0 for one for each core"};
  auto executor = std::make_unique<CpuExecutor>(plan, options);
  MOE_TRY(executor->loadCode(plan, cpu));
  MOE_ASSIGN(pool, ThreadPool::create(cpu.threads > 0 ? cpu.threads : defaultThreads()));
  executor->threads = std::move(pool);
  executor->governor.emplace(executor->threads->workers());
  if (cpu.numa != Numa::Off)
    executor->nodes = cpu.nodes ? *cpu.nodes : memoryNodes(allowedProcessors());
  MOE_TRY(executor->allocate(plan));
  MOE_TRY(executor->place(plan, cpu));
  MOE_TRY(executor->bind(plan));
  return std::unique_ptr<Executor>(std::move(executor));
}

Status CpuExecutor::loadCode(const DevicePlan &plan, const CpuOptions &cpu) {
  uint32_t count = 0;
  for (const Program &program : plan.programs)
    for (const Call &call : program.calls)
      count = std::max(count, call.kernel + 1);
  kernels.assign(count, nullptr);
  if (cpu.resolve) {
    target = "cpu:test";
    for (uint32_t i = 0; i < count; ++i)
      kernels[i] = cpu.resolve(i);
    return ok();
  }
  std::vector<std::string> host = hostFeatures();
  MOE_ASSIGN(chosen, chooseImage(plan.images, host, falseFeatures()));
  const Image &image = plan.images[chosen];
  target = image.target;
  MOE_ASSIGN(mapped, Memory::executable(image.code, image.file, image.fileOffset));
  code = std::move(mapped);
  for (size_t i = 0; i < std::min<size_t>(count, image.entries.size()); ++i)
    if (image.entries[i] < image.code.size())
      kernels[i] = reinterpret_cast<Kernel>(code.data() + image.entries[i]);
  return ok();
}

Status CpuExecutor::allocate(const DevicePlan &plan) {
  const auto take = [](Memory &to, uint64_t bytes, const std::string &purpose,
                       bool large = true) -> Status {
    MOE_ASSIGN(memory, Memory::zeroed(bytes, purpose, large));
    to = std::move(memory);
    return ok();
  };
  MOE_TRY(take(arena, sizes.arenaBytes, "the activations of a step"));
  MOE_TRY(take(counters, sizes.counterBytes, "counters"));
  // Whole pages for each worker, so that no two share a cache line. A page is on the node of the
  // worker that touches it first, so with several nodes it must not be a large one.
  scratchStride = (sizes.scratchBytes + 4095) / 4096 * 4096;
  MOE_TRY(take(scratch, scratchStride * uint64_t(threads->workers()), "the workers' scratch",
               /*large=*/nodes.size() < 2));
  for (size_t i = 0; i < plan.outputs.size(); ++i)
    MOE_TRY(take(outputs.emplace_back(), sizes.outputBytes[i],
                 "the output \"" + plan.outputs[i].name + "\" of a step"));
  MOE_TRY(take(inputBlock, inputs.blockBytes(), "the inputs of a step"));
  for (size_t i = 0; i < plan.pools.size(); ++i)
    MOE_TRY(take(pools.emplace_back(), uint64_t(options.poolPages[i]) * plan.pools[i].pageBytes,
                 "KV pages of the pool \"" + plan.pools[i].name + "\""));
  return ok();
}

Status CpuExecutor::place(const DevicePlan &plan, const CpuOptions &cpu) {
  uint64_t others = arena.bytes().size() + scratch.bytes().size();
  for (const Memory &pool : pools)
    others += pool.bytes().size();
  MOE_ASSIGN(placement,
             choosePlacement(cpu.numa, weightBytes(plan), others, nodes, availableMemory()));
  MOE_ASSIGN(placed, PlacedWeights::create(plan, placement, nodes, *threads, cpu.progress));
  weights = std::move(placed);
  // What all workers read and write comes from all nodes. Where the system forbids that, the one
  // that touches a page first has it, as everywhere else.
  if (nodes.size() < 2)
    return ok();
  (void)interleave(arena.bytes(), nodes);
  for (const Memory &pool : pools)
    (void)interleave(pool.bytes(), nodes);
  return ok();
}

Status CpuExecutor::bind(const DevicePlan &plan) {
  BufferAddresses<std::byte *> buffers{
      inputBlock.data(), arena.data(), counters.data(), {}, {}, {}};
  for (const Memory &output : outputs)
    buffers.outputs.push_back(output.data());
  for (const Memory &pool : pools)
    buffers.pools.push_back(pool.data());

  size_t count = 0;
  for (const Program &program : plan.programs)
    for (const Call &call : program.calls)
      count += call.operands.size();
  for (size_t copy = 0; copy < weights.copies(); ++copy) {
    buffers.sections = weights.sections(copy);
    auto &[pointers, programs] = bound.emplace_back();
    pointers.reserve(count); // BoundCall points into it
    for (size_t i = 0; i < plan.programs.size(); ++i) {
      std::vector<BoundCall> &calls = programs.emplace_back();
      for (const Call &call : plan.programs[i].calls) {
        if (!kernels[call.kernel])
          return missingKernel(target, call.kernel);
        calls.push_back({kernels[call.kernel], pointers.data() + pointers.size()});
        for (const Operand &operand : call.operands) {
          MOE_ASSIGN(pointer, addressOf(buffers, operand, i));
          pointers.push_back(pointer);
        }
      }
    }
  }
  return ok();
}

void CpuExecutor::runWorker(void *self, int worker) {
  auto &executor = *static_cast<CpuExecutor *>(self);
  void *scratch = executor.scratch.data() + worker * executor.scratchStride;
  const BoundPrograms &nearest = executor.bound[executor.weights.nearest(worker)];
  const std::vector<BoundCall> &calls = nearest.programs[executor.current];
  for (size_t i = 0; i < calls.size(); ++i) {
    if (i)
      executor.threads->barrier();
    calls[i].kernel(calls[i].operands, &executor.info, scratch, worker, executor.workers);
  }
}

Status CpuExecutor::runProgram(const Step &step, size_t program) {
  inputs.fill(step, program, inputBlock.data());
  current = program;
  info = {step.tokens, step.rows, options.tableStride, 0, ThreadPool::awaitCounter};
  const uint64_t kind = (uint64_t(program) << 32 | uint32_t(step.rows)) * 65599 + step.tokens;
  workers = governor->workers(kind);
  const auto start = std::chrono::steady_clock::now();
  threads->run(runWorker, this, workers);
  governor->ran(kind, std::chrono::steady_clock::now() - start);
  return ok();
}

class CpuDevice final : public Device {
public:
  explicit CpuDevice(CpuOptions options) : options(std::move(options)) {}
  std::string name() const override { return "cpu"; }
  Result<std::unique_ptr<Executor>> createExecutor(const DevicePlan &plan,
                                                   const ExecutorOptions &executor) override {
    return CpuExecutor::create(plan, executor, options);
  }

private:
  CpuOptions options;
};

} // namespace

Result<std::unique_ptr<Device>> openCpuDevice(CpuOptions options) {
  return std::unique_ptr<Device>(std::make_unique<CpuDevice>(std::move(options)));
}

} // namespace moe::cpu
