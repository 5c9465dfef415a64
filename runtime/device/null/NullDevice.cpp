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
    for (uint64_t bytes : executor->sizes.outputBytes)
      MOE_TRY(take(executor->outputs.emplace_back(), bytes, "an output of a step"));
    return std::unique_ptr<Executor>(std::move(executor));
  }
  NullExecutor(const DevicePlan &plan, const ExecutorOptions &options)
      : ProgramExecutor(plan, options, /*headerBytes=*/0) {}
  std::string description() const override { return "null, which runs no kernels"; }
  std::span<const std::byte> output(uint32_t index) const override {
    return {outputs[index].get(), sizes.outputBytes[index]};
  }

private:
  // Zeroed memory of the host.
  static Status take(std::unique_ptr<std::byte[]> &to, uint64_t bytes, const char *purpose) {
    to.reset(new (std::nothrow) std::byte[bytes]());
    if (!to)
      return Error{Code::ResourceExhausted,
                   "cannot allocate " + std::to_string(bytes) + " bytes for " + purpose};
    return ok();
  }

  Status runProgram(const Step &step, size_t program) override {
    inputs.fill(step, program, block.get());
    return ok();
  }

  std::unique_ptr<std::byte[]> block;
  std::vector<std::unique_ptr<std::byte[]>> outputs;
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
