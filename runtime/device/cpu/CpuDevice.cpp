// Every operand of every program becomes a pointer once, when the executor is created; a step then
// copies its inputs to where those point and calls the kernels.
#include "runtime/device/cpu/CpuDevice.h"

#include "runtime/device/cpu/CpuFeatures.h"
#include "runtime/device/cpu/Memory.h"
#include "runtime/device/cpu/ThreadPool.h"

#include <algorithm>
#include <cstring>

namespace moe::cpu {
namespace {

struct BoundCall {
  Kernel kernel;
  void *const *operands; // into CpuExecutor::pointers
};

struct BoundProgram {
  int32_t tokens, rows;
  std::vector<BoundCall> calls;
};

class CpuExecutor final : public Executor {
public:
  static Result<std::unique_ptr<Executor>>
  create(const DevicePlan &plan, const ExecutorOptions &options, const CpuOptions &cpu);
  Result<StepResult> run(const Step &step) override;
  int32_t maxTokens() const override { return mostTokens; }
  int32_t maxRows() const override { return mostRows; }
  std::string description() const override {
    return target + ", " + std::to_string(threads->workers()) +
           (threads->workers() == 1 ? " thread" : " threads");
  }

private:
  Status loadCode(const DevicePlan &plan, const CpuOptions &cpu);
  Status allocate(const DevicePlan &plan);
  Status bind(const DevicePlan &plan);
  Result<void *> pointerTo(const DevicePlan &plan, const Operand &operand) const;
  void copyInputs(const Step &step);
  static void runWorker(void *self, int worker);

  int32_t *input(InputName name) const { return inputs[size_t(name)]; }

  ExecutorOptions options;
  int64_t vocab = 0;
  int32_t mostTokens = 0, mostRows = 0;
  uint64_t scratchStride = 0;
  std::string target;
  std::vector<Kernel> kernels;    // null: not in this image
  std::vector<InputName> tableOf; // per pool of the plan
  std::unique_ptr<ThreadPool> threads;

  Memory code, arena, scratch, counters, inputMemory, logits;
  std::vector<Memory> pools;
  int32_t *inputs[6] = {};
  std::vector<void *> pointers; // operands of all calls
  std::vector<BoundProgram> programs;

  const BoundProgram *current = nullptr; // of the step at hand
  StepInfo info{};
};

Result<std::unique_ptr<Executor>>
CpuExecutor::create(const DevicePlan &plan, const ExecutorOptions &options, const CpuOptions &cpu) {
  auto executor = std::make_unique<CpuExecutor>();
  executor->options = options;
  executor->vocab = plan.vocab;
  if (plan.programs.empty())
    return Error{Code::InvalidPlan, "the plan has no step programs for device cpu"};
  if (options.poolPages.size() != plan.pools.size() || options.maxSequences < 1 ||
      options.tableStride < 1)
    return Error{Code::InvalidArgument, "an executor needs at least one sequence and page, and a "
                                        "size for each cache pool of the plan"};
  MOE_TRY(executor->loadCode(plan, cpu));
  MOE_ASSIGN(pool, ThreadPool::create(cpu.threads > 0 ? cpu.threads : defaultThreads()));
  executor->threads = std::move(pool);
  MOE_TRY(executor->allocate(plan));
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
  MOE_ASSIGN(chosen, chooseImage(plan.images, host));
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
  uint64_t arenaBytes = 0, scratchBytes = 0, counterBytes = 0;
  for (const Program &program : plan.programs) {
    mostTokens = std::max(mostTokens, program.tokens);
    mostRows = std::max(mostRows, program.rows);
    arenaBytes = std::max(arenaBytes, program.arenaBytes);
    scratchBytes = std::max(scratchBytes, program.scratchBytes);
    counterBytes = std::max(counterBytes, program.counterBytes);
  }
  MOE_ASSIGN(arenaMemory, Memory::zeroed(arenaBytes, "the activations of a step"));
  arena = std::move(arenaMemory);
  MOE_ASSIGN(counterMemory, Memory::zeroed(counterBytes, "counters"));
  counters = std::move(counterMemory);
  // Whole pages for each worker, so that no two share a cache line.
  scratchStride = (scratchBytes + 4095) / 4096 * 4096;
  MOE_ASSIGN(scratchMemory,
             Memory::zeroed(scratchStride * threads->workers(), "the workers' scratch"));
  scratch = std::move(scratchMemory);
  MOE_ASSIGN(logitsMemory,
             Memory::zeroed(uint64_t(std::max(mostRows, 1)) * vocab * sizeof(float), "logits"));
  logits = std::move(logitsMemory);

  uint64_t tableCount = uint64_t(options.maxSequences) * options.tableStride;
  const uint64_t counts[6] = {uint64_t(mostTokens), uint64_t(mostTokens), uint64_t(mostTokens),
                              uint64_t(mostRows),   tableCount,           tableCount};
  uint64_t offsets[6], bytes = 0;
  for (int i = 0; i < 6; ++i) {
    offsets[i] = bytes;
    bytes += (counts[i] * sizeof(int32_t) + 63) / 64 * 64;
  }
  MOE_ASSIGN(memory, Memory::zeroed(bytes, "the inputs of a step"));
  inputMemory = std::move(memory);
  for (int i = 0; i < 6; ++i)
    inputs[i] = reinterpret_cast<int32_t *>(inputMemory.data() + offsets[i]);

  for (size_t i = 0; i < plan.pools.size(); ++i) {
    const CachePool &pool = plan.pools[i];
    uint64_t pages = options.poolPages[i];
    if (pool.pageBytes && pages > UINT64_MAX / pool.pageBytes)
      return Error{Code::ResourceExhausted, "the KV cache has more bytes than addresses"};
    MOE_ASSIGN(poolMemory, Memory::zeroed(pages * pool.pageBytes,
                                          "KV pages of the pool \"" + pool.name + "\""));
    pools.push_back(std::move(poolMemory));
    tableOf.push_back(pool.name == "chunked" ? InputName::ChunkedTable : InputName::GlobalTable);
  }
  return ok();
}

Result<void *> CpuExecutor::pointerTo(const DevicePlan &plan, const Operand &operand) const {
  switch (operand.kind) {
  case OperandKind::Input:
    if (operand.index < 6)
      return static_cast<void *>(inputs[operand.index]);
    break;
  case OperandKind::Arena:
    return static_cast<void *>(arena.data() + operand.offset);
  case OperandKind::Weight:
    if (operand.index < plan.sections.size()) {
      // Kernels take one type of pointer; they do not write to weights, whose pages would refuse.
      auto *section = const_cast<std::byte *>(plan.sections[operand.index].data());
      return static_cast<void *>(section + operand.offset);
    }
    break;
  case OperandKind::Cache:
    if (operand.index < pools.size())
      return static_cast<void *>(pools[operand.index].data() + operand.offset);
    break;
  case OperandKind::Logits:
    return static_cast<void *>(logits.data());
  case OperandKind::Counters:
    return static_cast<void *>(counters.data() + operand.offset);
  case OperandKind::Ids: // of GPUs alone
    break;
  }
  return Error{Code::InvalidPlan, "a kernel call has an operand that does not exist"};
}

Status CpuExecutor::bind(const DevicePlan &plan) {
  size_t count = 0;
  for (const Program &program : plan.programs)
    for (const Call &call : program.calls)
      count += call.operands.size();
  pointers.reserve(count); // BoundCall points into it
  for (const Program &program : plan.programs) {
    BoundProgram bound{program.tokens, program.rows, {}};
    for (const Call &call : program.calls) {
      if (!kernels[call.kernel])
        return Error{Code::InvalidPlan, target + " has no kernel number " +
                                            std::to_string(call.kernel) +
                                            ", which a step program calls"};
      bound.calls.push_back({kernels[call.kernel], pointers.data() + pointers.size()});
      for (const Operand &operand : call.operands) {
        MOE_ASSIGN(pointer, pointerTo(plan, operand));
        pointers.push_back(pointer);
      }
    }
    programs.push_back(std::move(bound));
  }
  std::sort(programs.begin(), programs.end(), [](const BoundProgram &a, const BoundProgram &b) {
    return a.tokens != b.tokens ? a.tokens < b.tokens : a.rows < b.rows;
  });
  return ok();
}

void CpuExecutor::copyInputs(const Step &step) {
  auto copy = [&](InputName name, std::span<const int32_t> values) {
    if (!values.empty())
      std::memcpy(input(name), values.data(), values.size_bytes());
  };
  copy(InputName::Tokens, step.tokens);
  copy(InputName::Positions, step.positions);
  copy(InputName::Sequences, step.sequences);
  copy(InputName::Rows, step.rows);
  // Of the tables only what the step can look at: up to the page of each sequence's last token.
  for (size_t i = 0; i < step.tokens.size(); ++i) {
    if (i + 1 < step.tokens.size() && step.sequences[i + 1] == step.sequences[i] &&
        step.positions[i + 1] >= step.positions[i])
      continue;
    size_t row = size_t(step.sequences[i]) * options.tableStride;
    size_t pages = size_t(step.positions[i]) / 64 + 1;
    for (size_t pool = 0; pool < pools.size(); ++pool)
      std::memcpy(input(tableOf[pool]) + row, step.tables[pool].data() + row,
                  pages * sizeof(int32_t));
  }
}

void CpuExecutor::runWorker(void *self, int worker) {
  auto &executor = *static_cast<CpuExecutor *>(self);
  void *scratch = executor.scratch.data() + worker * executor.scratchStride;
  int32_t workers = executor.threads->workers();
  const std::vector<BoundCall> &calls = executor.current->calls;
  for (size_t i = 0; i < calls.size(); ++i) {
    if (i)
      executor.threads->barrier();
    calls[i].kernel(calls[i].operands, &executor.info, scratch, worker, workers);
  }
}

Result<StepResult> CpuExecutor::run(const Step &step) {
  MOE_TRY(checkStep(step, options, pools.size(), vocab, samples()));
  auto program = std::find_if(programs.begin(), programs.end(), [&](const BoundProgram &p) {
    return size_t(p.tokens) >= step.tokens.size() && size_t(p.rows) >= step.rows.size();
  });
  if (program == programs.end())
    return Error{Code::InvalidArgument, "a step of " + std::to_string(step.tokens.size()) +
                                            " tokens and " + std::to_string(step.rows.size()) +
                                            " rows of logits is larger than every program's"};
  copyInputs(step);
  current = &*program;
  info = {int32_t(step.tokens.size()), int32_t(step.rows.size()), options.tableStride, 0,
          ThreadPool::awaitCounter};
  threads->run(runWorker, this);
  return StepResult{
      {reinterpret_cast<const float *>(logits.data()), step.rows.size() * size_t(vocab)}, {}};
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
