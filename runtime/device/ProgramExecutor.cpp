// Sizes, checks and the choice of a program, the same for every device.
#include "runtime/device/ProgramExecutor.h"

#include <algorithm>
#include <tuple>

namespace moe {
namespace {

bool writesIds(const Program &program) {
  return std::any_of(program.calls.begin(), program.calls.end(), [](const Call &call) {
    return std::any_of(call.operands.begin(), call.operands.end(),
                       [](const Operand &operand) { return operand.kind == OperandKind::Ids; });
  });
}

} // namespace

ProgramSizes sizesOf(const DevicePlan &plan) {
  ProgramSizes sizes;
  for (const Program &program : plan.programs) {
    sizes.tokens = std::max(sizes.tokens, program.tokens);
    sizes.rows = std::max(sizes.rows, program.rows);
    sizes.arenaBytes = std::max(sizes.arenaBytes, program.arenaBytes);
    sizes.counterBytes = std::max(sizes.counterBytes, program.counterBytes);
    sizes.scratchBytes = std::max(sizes.scratchBytes, program.scratchBytes);
  }
  const uint64_t rows = uint64_t(std::max(sizes.rows, 1));
  sizes.logitsBytes = rows * uint64_t(plan.vocab) * sizeof(float);
  sizes.idsBytes = rows * sizeof(int32_t);
  return sizes;
}

Status checkExecutor(const DevicePlan &plan, const ExecutorOptions &options,
                     std::string_view device) {
  if (plan.programs.empty())
    return Error{Code::InvalidPlan,
                 "the plan has no step programs for device " + std::string(device)};
  if (options.poolPages.size() != plan.pools.size() || options.maxSequences < 1 ||
      options.tableStride < 1)
    return Error{Code::InvalidArgument, "an executor needs at least one sequence and page, and a "
                                        "size for each cache pool of the plan"};
  for (size_t i = 0; i < plan.pools.size(); ++i) {
    uint64_t bytes;
    if (options.poolPages[i] < 0 ||
        __builtin_mul_overflow(uint64_t(options.poolPages[i]), plan.pools[i].pageBytes, &bytes))
      return Error{Code::ResourceExhausted, "the KV cache has more bytes than addresses"};
  }
  return ok();
}

Error missingKernel(const std::string &target, uint32_t kernel) {
  return {Code::InvalidPlan, target + " has no kernel number " + std::to_string(kernel) +
                                 " as a step program calls it; compile the plan again"};
}

ProgramExecutor::ProgramExecutor(const DevicePlan &plan, const ExecutorOptions &options,
                                 uint64_t headerBytes)
    : options(options), vocab(plan.vocab), sizes(sizesOf(plan)), inputs(plan, options, headerBytes),
      choosesIds(std::all_of(plan.programs.begin(), plan.programs.end(), writesIds)) {
  for (size_t i = 0; i < plan.programs.size(); ++i)
    rooms.push_back({plan.programs[i].tokens, plan.programs[i].rows, i});
  std::sort(rooms.begin(), rooms.end(), [](const Room &a, const Room &b) {
    return std::tie(a.tokens, a.rows) < std::tie(b.tokens, b.rows);
  });
}

Result<StepResult> ProgramExecutor::run(const Step &step) {
  MOE_TRY(checkStep(step, options, options.poolPages.size(), vocab, choosesIds));
  for (const Room &room : rooms)
    if (size_t(room.tokens) >= step.tokens.size() && size_t(room.rows) >= step.rows.size())
      return runProgram(step, room.program);
  return Error{Code::InvalidArgument, "a step of " + std::to_string(step.tokens.size()) +
                                          " tokens and " + std::to_string(step.rows.size()) +
                                          " rows of logits is larger than every program's"};
}

} // namespace moe
