// What each part of a device does is said in runtime/device/README.md.
#include "runtime/device/null/NullDevice.h"

#include "runtime/device/ProgramExecutor.h"

#include <new>

namespace moe::null {
namespace {

class NullExecutor final : public ProgramExecutor {
public:
  static Result<std::unique_ptr<Executor>> create(const DevicePlan &plan,
                                                  const ExecutorOptions &options) {
    auto executor = std::make_unique<NullExecutor>(plan, options);
    MOE_TRY(take(executor->block, executor->inputs.blockBytes(), "the inputs of a step"));
    MOE_TRY(take(executor->logits, executor->sizes.logitsBytes, "logits"));
    MOE_TRY(take(executor->ids, executor->sizes.idsBytes, "ids"));
    return std::unique_ptr<Executor>(std::move(executor));
  }
  NullExecutor(const DevicePlan &plan, const ExecutorOptions &options)
      : ProgramExecutor(plan, options, /*headerBytes=*/0) {}
  std::string description() const override { return "null, which runs no kernels"; }

private:
  // Zeroed memory of the host.
  template <typename T>
  static Status take(std::unique_ptr<T[]> &to, uint64_t bytes, const std::string &purpose) {
    to.reset(new (std::nothrow) T[bytes / sizeof(T)]());
    if (!to)
      return Error{Code::ResourceExhausted,
                   "cannot allocate " + std::to_string(bytes) + " bytes for " + purpose};
    return ok();
  }

  Result<StepResult> runProgram(const Step &step, size_t program) override {
    inputs.fill(step, program, block.get());
    const size_t rows = step.rows.size();
    return StepResult{{logits.get(), rows * size_t(vocab)}, {ids.get(), rows}};
  }

  std::unique_ptr<std::byte[]> block;
  std::unique_ptr<float[]> logits;
  std::unique_ptr<int32_t[]> ids;
};

class NullDevice final : public Device {
public:
  explicit NullDevice(std::string planDevice) : programsOf(std::move(planDevice)) {}
  std::string name() const override { return "null"; }
  std::string planDevice() const override { return programsOf; }

  // It keeps no cache and no weights, so no session is too large for it.
  Result<std::optional<DeviceMemory>> memory(const DevicePlan &) const override {
    return std::optional(DeviceMemory{name(), UINT64_MAX, UINT64_MAX, 0, 0});
  }

  Result<std::unique_ptr<Executor>> createExecutor(const DevicePlan &plan,
                                                   const ExecutorOptions &options) override {
    MOE_TRY(checkExecutor(plan, options, programsOf));
    return NullExecutor::create(plan, options);
  }

private:
  std::string programsOf;
};

} // namespace

Result<std::unique_ptr<Device>> openNullDevice(std::string planDevice) {
  return std::unique_ptr<Device>(std::make_unique<NullDevice>(std::move(planDevice)));
}

} // namespace moe::null
