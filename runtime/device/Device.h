// The interface that each device implements: memory for a session, and running one step of a plan.
#ifndef MOE_RUNTIME_DEVICE_DEVICE_H
#define MOE_RUNTIME_DEVICE_DEVICE_H

#include "runtime/Status.h"
#include "runtime/device/Programs.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace moe {

// Some bytes of an input or output. `index`: into DevicePlan::inputs or outputs.
struct TensorPart {
  uint32_t index;
  uint64_t offset, bytes;
};

// The values of one run of a program, mostly a step. All spans are the caller's and are read during
// run() alone.
struct Step {
  int32_t tokens = 0; // T, at least 1
  int32_t rows = 0;   // R
  // Per DevicePlan::inputs: the elements of T tokens or R rows of an input of the step, and all
  // elements of one that stays from step to step. Those that the step's program does not take are
  // not looked at.
  std::span<const std::span<const std::byte>> inputs;
  // What the step's kernels may read of inputs that stay: no more of them is copied.
  std::span<const TensorPart> used;
  // What will be read of the outputs: no more of them is copied.
  std::span<const TensorPart> wanted;
  ProgramKind kind = ProgramKind::Step; // whose programs
};

// What a session needs from its device.
struct ExecutorOptions {
  int32_t maxSequences = 1;       // S
  int32_t tableStride = 1;        // P, pages a sequence may have
  std::vector<int64_t> poolPages; // per DevicePlan::pools
};

// The memory and programs of one session on one device. Not for use from two threads at once.
class Executor {
public:
  virtual ~Executor() = default;
  // Runs the smallest program of its kind that holds the step. Allocates nothing. Error:
  // InvalidArgument if no program does, or where sizes of inputs and parts are not those that the
  // program declares.
  virtual Status run(const Step &step) = 0;
  // The bytes of an output for the largest step. What the last step wanted is there until the next
  // one runs; the rest is undefined. They stay in place.
  virtual std::span<const std::byte> output(uint32_t index) const = 0;
  virtual int32_t maxTokens() const = 0; // largest T of any step program
  virtual int32_t maxRows() const = 0;   // largest R of any step program
  // Largest T of any program of kind Vision; 0: there is none.
  virtual int32_t maxTiles() const { return 0; }
  // For people: the target chosen and the threads, "cpu:x86-64-v4, 2 threads".
  virtual std::string description() const { return {}; }
};

// The memory of a device that has its own, and what a plan takes of it beside the KV cache.
struct DeviceMemory {
  std::string device; // for people: "cuda:0 (NVIDIA H100)"
  uint64_t total = 0;
  uint64_t free = 0; // now, less what the driver itself will want
  uint64_t weights = 0;
  uint64_t activations = 0; // arena, counters, inputs, outputs
};

// A machine's processor that can run the programs of a plan.
class Device {
public:
  virtual ~Device() = default;
  virtual std::string name() const = 0;                     // as in deviceNames(): "cpu"
  virtual std::string planDevice() const { return name(); } // Program.device in a plan
  // Whether an image of the plan runs here. Error: Unavailable, with what there is and what is
  // needed.
  virtual Status supports(const DevicePlan &plan) const { return ok(); }
  // Nothing if the device works in the system's memory.
  virtual Result<std::optional<DeviceMemory>> memory(const DevicePlan &plan) const {
    return std::optional<DeviceMemory>();
  }
  // Allocates all that the session needs. The sections of `plan` must outlive the executor; the
  // rest of it is copied. Errors: Unavailable if no image runs here, ResourceExhausted with the
  // bytes that were asked for.
  virtual Result<std::unique_ptr<Executor>> createExecutor(const DevicePlan &plan,
                                                           const ExecutorOptions &options) = 0;
};

} // namespace moe

#endif
