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

// How a token is drawn from a row of logits; Sampler.h has the formulas.
struct Draw {
  float scale = 0;        // log2(e) / temperature; 0: greedy, and what follows is not used
  int32_t topK = 0;       // 0: all tokens
  uint64_t random = 0;    // uniform
  uint64_t topP = 0;      // 2^64 times the share of the probability; 0: all of it
  uint64_t minWeight = 0; // the least weight that is kept
};

// What is wanted of a row.
struct RowOutput {
  bool logits = true;
  bool id = false; // a token chosen by `draw`; only of an Executor that samples()
  Draw draw{};
};

// What comes instead of an id: every logit is minus infinity; or that of a token, the lowest such,
// is NaN or infinite.
inline constexpr int32_t kNothingToChoose = -1;
inline constexpr int32_t badLogitId(int32_t token) { return -2 - token; }
inline constexpr int32_t tokenOfBadLogit(int32_t id) { return -2 - id; }

// A ragged batch: tokens of any sequences, mixed freely; tokens of one sequence in the order of
// their positions. T = tokens.size(). All spans are the caller's and are read during run() alone.
struct Step {
  std::span<const int32_t> tokens;    // [T] ids
  std::span<const int32_t> positions; // [T] absolute positions
  std::span<const int32_t> sequences; // [T] slots
  std::span<const int32_t> rows;      // [R] indices into the step's tokens that outputs are of
  // [maxSequences, tableStride] page of each 64 positions, per DevicePlan::pools.
  std::vector<std::span<const int32_t>> tables;
  std::span<const RowOutput> outputs{}; // [R], or none: the logits of all rows
};

// Valid until the executor's next run.
struct StepResult {
  std::span<const float> logits; // float32 [R, vocab], undefined in rows that do not want them
  std::span<const int32_t> ids;  // [R], undefined in rows that do not want them; else maybe empty
};

// What a session needs from its device.
struct ExecutorOptions {
  int32_t maxSequences = 1;
  int32_t tableStride = 1;        // pages a sequence may have
  std::vector<int64_t> poolPages; // per DevicePlan::pools
};

// What would make a kernel read or write outside of its memory, or outputs that the executor does
// not have. Error: InvalidArgument.
Status checkStep(const Step &step, const ExecutorOptions &options, size_t pools, int64_t vocab,
                 bool samples);

// The memory and programs of one session on one device. Not for use from two threads at once.
class Executor {
public:
  virtual ~Executor() = default;
  // Runs the smallest program that holds the step. Allocates nothing.
  virtual Result<StepResult> run(const Step &step) = 0;
  // Whether rows can ask for ids. Where not, a Sampler chooses from their logits.
  virtual bool samples() const { return false; }
  virtual int32_t maxTokens() const = 0; // largest T of any program
  virtual int32_t maxRows() const = 0;   // largest R of any program
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
