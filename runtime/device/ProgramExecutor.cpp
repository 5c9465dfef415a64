// Sizes, checks and the choice of a program, the same for every device.
#include "runtime/device/ProgramExecutor.h"

#include <algorithm>
#include <tuple>

namespace moe {
namespace {

// Takes the place of more bytes than any machine has, so that they are refused where memory is.
constexpr uint64_t kTooMany = uint64_t(1) << 48;

bool contains(const std::vector<uint32_t> &list, uint32_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// What a program declares is there, and no larger than any memory.
Status checkDeclared(const std::vector<uint32_t> &declared, const std::vector<TensorSpec> &specs,
                     const Extents &extents, const std::string &what) {
  for (uint32_t index : declared) {
    if (index >= specs.size())
      return Error{Code::InvalidPlan,
                   "a step program declares an " + what + " that does not exist"};
    if (!bytesOf(specs[index], extents))
      return Error{Code::ResourceExhausted, "the " + what + " '" + specs[index].name +
                                                "' of a step, " + typeText(specs[index]) +
                                                ", is larger than any memory"};
  }
  return ok();
}

} // namespace

ProgramSizes sizesOf(const DevicePlan &plan) {
  ProgramSizes sizes;
  sizes.outputBytes.resize(plan.outputs.size());
  for (const Program &program : plan.programs) {
    int32_t &most = program.kind == ProgramKind::Vision ? sizes.tiles : sizes.tokens;
    most = std::max(most, program.tokens);
    sizes.rows = std::max(sizes.rows, program.rows);
    sizes.arenaBytes = std::max(sizes.arenaBytes, program.arenaBytes);
    sizes.counterBytes = std::max(sizes.counterBytes, program.counterBytes);
    sizes.scratchBytes = std::max(sizes.scratchBytes, program.scratchBytes);
    for (uint32_t output : program.outputs)
      sizes.outputBytes[output] = std::max(
          sizes.outputBytes[output],
          bytesOf(plan.outputs[output], {program.tokens, program.rows}).value_or(kTooMany));
  }
  return sizes;
}

Status checkExecutor(const DevicePlan &plan, const ExecutorOptions &options,
                     std::string_view device) {
  if (std::none_of(plan.programs.begin(), plan.programs.end(),
                   [](const Program &program) { return program.kind == ProgramKind::Step; }))
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
  for (const Program &program : plan.programs) {
    const Extents extents{program.tokens, program.rows, options.maxSequences, options.tableStride};
    MOE_TRY(checkDeclared(program.inputs, plan.inputs, extents, "input"));
    MOE_TRY(checkDeclared(program.outputs, plan.outputs, extents, "output"));
  }
  return ok();
}

Error missingKernel(const std::string &target, uint32_t kernel) {
  return {Code::InvalidPlan, target + " has no kernel number " + std::to_string(kernel) +
                                 " as a step program calls it; compile the plan again"};
}

ProgramExecutor::ProgramExecutor(const DevicePlan &plan, const ExecutorOptions &options,
                                 uint64_t headerBytes)
    : options(options), sizes(sizesOf(plan)), inputs(plan, options, headerBytes),
      outputs(plan.outputs) {
  for (size_t i = 0; i < plan.programs.size(); ++i) {
    rooms.push_back({plan.programs[i].kind, plan.programs[i].tokens, plan.programs[i].rows, i});
    outputsOf.push_back(plan.programs[i].outputs);
  }
  std::sort(rooms.begin(), rooms.end(), [](const Room &a, const Room &b) {
    return std::tie(a.tokens, a.rows) < std::tie(b.tokens, b.rows);
  });
}

bool ProgramExecutor::writes(size_t program, uint32_t output) const {
  return contains(outputsOf[program], output);
}

Status ProgramExecutor::checkWanted(const Step &step, size_t program) const {
  for (const TensorPart &part : step.wanted) {
    if (!writes(program, part.index))
      return Error{Code::InvalidArgument, "a step wants output " + std::to_string(part.index) +
                                              ", which its program does not write"};
    const uint64_t bytes = *bytesOf(outputs[part.index], {step.tokens, step.rows});
    if (part.offset > bytes || part.bytes > bytes - part.offset)
      return Error{Code::InvalidArgument, "a step wants " + std::to_string(part.bytes) +
                                              " bytes at byte " + std::to_string(part.offset) +
                                              " of output '" + outputs[part.index].name +
                                              "', which has " + std::to_string(bytes)};
  }
  return ok();
}

Status ProgramExecutor::run(const Step &step) {
  if (step.tokens < 1 || step.rows < 0)
    return Error{Code::InvalidArgument, "a step has " + std::to_string(step.tokens) +
                                            " tokens and " + std::to_string(step.rows) +
                                            " rows, expected a token at least"};
  for (const Room &room : rooms)
    if (room.kind == step.kind && room.tokens >= step.tokens && room.rows >= step.rows) {
      MOE_TRY(inputs.check(step, room.program));
      MOE_TRY(checkWanted(step, room.program));
      return runProgram(step, room.program);
    }
  if (step.kind == ProgramKind::Vision)
    return Error{Code::InvalidArgument,
                 std::to_string(step.tokens) +
                     " tiles of pictures are to be run at once, and the " +
                     (sizes.tiles ? "plan's programs take " + std::to_string(sizes.tiles)
                                  : "plan has no program for them on this device")};
  return Error{Code::InvalidArgument, "a step of " + std::to_string(step.tokens) + " tokens and " +
                                          std::to_string(step.rows) +
                                          " rows is larger than every program's"};
}

} // namespace moe
