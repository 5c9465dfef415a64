// Where the inputs of a step lie in memory that kernels read, and copying a step to there.
//
// All inputs of an executor are one block of bytes: a header that is the device's own; the inputs
// that each step brings, packed for the program at hand, so that a small step is a small copy; and
// behind those of the largest program the inputs that stay from step to step, at one place for all
// programs.
#ifndef MOE_RUNTIME_DEVICE_STEPINPUTS_H
#define MOE_RUNTIME_DEVICE_STEPINPUTS_H

#include "runtime/device/Device.h"

namespace moe {

class StepInputs {
public:
  // Inputs begin at multiples of this, as does what lies behind them.
  static constexpr uint64_t alignment = 256;

  // Lays out the inputs that each program declares, of a plan that checkExecutor accepts.
  // `headerBytes`: at the block's start.
  StepInputs(const DevicePlan &plan, const ExecutorOptions &options, uint64_t headerBytes);

  uint64_t blockBytes() const { return end; }
  // The header and the inputs that each step brings to a program: with what fill returns, all that
  // a step changes. `program`: an index into DevicePlan::programs, here and below.
  uint64_t packedBytes(size_t program) const { return programs[program].end; }
  // Where an input begins in the block. Nothing if it is none that the program declares.
  std::optional<uint64_t> offsetOf(size_t program, uint32_t input) const;

  // Whether a step has the bytes that the program declares. Error: InvalidArgument.
  Status check(const Step &step, size_t program) const;

  // Bytes of the block.
  struct Range {
    uint64_t begin = 0, end = 0;
    bool empty() const { return begin == end; }
  };
  // Copies a step that check accepts. Inputs that stay are in `block` what the steps before have
  // left there, or zero; of them the parts are copied that the step uses. Returns where they
  // differed, which in most steps is nowhere; the ranges ascend and are apart, and valid until the
  // next call. Allocates nothing.
  std::span<const Range> fill(const Step &step, size_t program, std::byte *block);

private:
  struct Placed {
    uint32_t input;
    uint64_t offset;
    uint64_t unitBytes; // of one token or row, or of the whole of an input that stays
    Extent unit;        // Tokens, Rows, or Constant for an input that stays
  };
  struct Packed {
    std::vector<Placed> inputs; // that each step brings
    std::vector<uint32_t> kept; // that stay: indices into StepInputs::kept
    uint64_t end = 0;
  };

  Status checkSize(const Step &step, const Placed &placed) const;
  const Placed *keptInput(uint32_t input) const;

  std::vector<std::string> names; // per DevicePlan::inputs, for messages
  std::vector<Packed> programs;   // per DevicePlan::programs
  std::vector<Placed> kept;       // inputs that stay, of any program
  std::vector<Range> changed;     // of the last step: of each of these, then those told
  uint64_t end = 0;
};

} // namespace moe

#endif
