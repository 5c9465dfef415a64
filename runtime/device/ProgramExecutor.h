// What every executor of a plan's programs does: it checks what it is made of, chooses the program
// of a step, and knows where operands lie. A device adds its memory, its code and running it.
#ifndef MOE_RUNTIME_DEVICE_PROGRAMEXECUTOR_H
#define MOE_RUNTIME_DEVICE_PROGRAMEXECUTOR_H

#include "runtime/device/StepInputs.h"

#include <string_view>

namespace moe {

// What all programs of a plan together need: of each figure the largest.
struct ProgramSizes {
  int32_t tokens = 0, rows = 0; // of steps
  int32_t tiles = 0;            // T of programs of kind Vision; 0: there is none
  uint64_t arenaBytes = 0, counterBytes = 0;
  uint64_t scratchBytes = 0;         // per worker
  std::vector<uint64_t> outputBytes; // per DevicePlan::outputs
};
ProgramSizes sizesOf(const DevicePlan &plan);

// What every device asks before it makes an executor. `device`: whose programs they are. Errors:
// InvalidPlan without a step program, InvalidArgument for options that do not fit the plan,
// ResourceExhausted for a KV cache, inputs or outputs larger than any memory.
Status checkExecutor(const DevicePlan &plan, const ExecutorOptions &options,
                     std::string_view device);

// The error of a call whose kernel an image does not have, or not with so many operands.
Error missingKernel(const std::string &target, uint32_t kernel);

// Where the buffers of a session begin, in the terms of its kernels: std::byte * of the host, or a
// GPU's address. What the session has none of is left out.
template <typename Address> struct BufferAddresses {
  Address inputs{}; // the block of StepInputs
  Address arena{}, counters{};
  std::vector<Address> outputs;  // per DevicePlan::outputs
  std::vector<Address> sections; // per DevicePlan::sections; unset where no program reads weights
  std::vector<Address> pools;    // per DevicePlan::pools
};

class ProgramExecutor : public Executor {
public:
  Status run(const Step &step) final;
  int32_t maxTokens() const final { return sizes.tokens; }
  int32_t maxRows() const final { return sizes.rows; }
  int32_t maxTiles() const final { return sizes.tiles; }

protected:
  // The plan must have passed checkExecutor. `headerBytes`: as StepInputs has it.
  ProgramExecutor(const DevicePlan &plan, const ExecutorOptions &options, uint64_t headerBytes);

  // Runs a program on a step whose sizes are those that it declares. `program`: an index into
  // DevicePlan::programs. Allocates nothing.
  virtual Status runProgram(const Step &step, size_t program) = 0;

  // What an operand of a call of `program` points to. Error: InvalidPlan if there is none.
  template <typename Address>
  Result<Address> addressOf(const BufferAddresses<Address> &buffers, const Operand &operand,
                            size_t program) const {
    switch (operand.kind) {
    case OperandKind::Input:
      if (std::optional<uint64_t> offset = inputs.offsetOf(program, operand.index))
        return buffers.inputs + *offset;
      break;
    case OperandKind::Output:
      if (writes(program, operand.index))
        return buffers.outputs[operand.index];
      break;
    case OperandKind::Arena:
      if (operand.offset < sizes.arenaBytes)
        return buffers.arena + operand.offset;
      break;
    case OperandKind::Weight:
      if (operand.index < buffers.sections.size())
        return buffers.sections[operand.index] + operand.offset;
      break;
    case OperandKind::Cache:
      if (operand.index < buffers.pools.size())
        return buffers.pools[operand.index] + operand.offset;
      break;
    case OperandKind::Counters:
      if (operand.offset < sizes.counterBytes)
        return buffers.counters + operand.offset;
      break;
    }
    return Error{Code::InvalidPlan, "a kernel call has an operand that does not exist"};
  }

  const ExecutorOptions options;
  const ProgramSizes sizes;
  StepInputs inputs;

private:
  struct Room {
    ProgramKind kind;
    int32_t tokens, rows;
    size_t program;
  };
  // Whether a program declares an output.
  bool writes(size_t program, uint32_t output) const;
  Status checkWanted(const Step &step, size_t program) const;

  std::vector<Room> rooms; // of all programs, smallest first
  std::vector<TensorSpec> outputs;
  std::vector<std::vector<uint32_t>> outputsOf; // per program
};

} // namespace moe

#endif
