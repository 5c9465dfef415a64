// Where the inputs of a step lie in memory that kernels read, and copying a step to there.
//
// All inputs of an executor are one block of bytes: a header that is the device's own; the inputs
// that each step brings, packed for the program at hand, so that a small step is a small copy; and
// behind those of the largest program the block tables, which stay from step to step.
#ifndef MOE_RUNTIME_DEVICE_STEPINPUTS_H
#define MOE_RUNTIME_DEVICE_STEPINPUTS_H

#include "runtime/device/Device.h"

namespace moe {

class StepInputs {
public:
  // Inputs begin at multiples of this, as does what lies behind them.
  static constexpr uint64_t alignment = 256;

  // Lays out the inputs that the calls of each program read. `headerBytes`: at the block's start.
  StepInputs(const DevicePlan &plan, const ExecutorOptions &options, uint64_t headerBytes);

  uint64_t blockBytes() const { return end; }
  // The header and the inputs of a program, which is all that a step changes but for tables.
  // `program`: an index into DevicePlan::programs, here and below.
  uint64_t packedBytes(size_t program) const { return programs[program].end; }
  // Where an input begins in the block. Nothing if it is none that the program's calls read.
  std::optional<uint64_t> offsetOf(size_t program, uint32_t input) const;

  // Bytes of the block.
  struct Range {
    uint64_t begin = 0, end = 0;
    bool empty() const { return begin == end; }
  };
  // Copies a step that checkStep accepts and the program has room for. The tables in `block` are
  // what the steps before have left there, or zero. Of the step's tables the entries are copied
  // that kernels may look at: up to the page of each sequence's last token. Returns where they
  // differed, which in most steps is nowhere. Allocates nothing.
  Range fill(const Step &step, size_t program, std::byte *block) const;

private:
  struct Placed {
    InputName name;
    uint64_t offset;
  };
  struct Packed {
    std::vector<Placed> inputs; // that each step brings
    uint64_t end = 0;
  };
  struct Table {
    InputName name;
    uint64_t offset;
    std::vector<size_t> pools; // whose pages it tells: one, or none in a plan without the pool
  };

  std::vector<Packed> programs; // per DevicePlan::programs
  std::vector<Table> tables;
  size_t tableStride;
  uint64_t end = 0;
};

} // namespace moe

#endif
