// Kernels on a GPU, alone: loading, operands, what they leave, and the time of a launch by the
// device's clock.
#ifndef MOE_TOOLS_GPU_CHECK_BENCH_H
#define MOE_TOOLS_GPU_CHECK_BENCH_H

#include "runtime/device/cuda/Gpu.h"
#include "runtime/device/cuda/KernelAbi.h"
#include "tools/gpu-check/Bundle.h"

#include <map>
#include <memory>

namespace moe::gpucheck {

// A kernel that is loaded on the device.
struct Kernel {
  cuda::Module module;
  cuda::CUfunction function = nullptr;
  std::string name;
  uint32_t threads = 0, sharedBytes = 0, blocksPerSm = 0;
  int registers = 0;
};

// The time of a launch: microseconds, of several repetitions.
struct Time {
  double median = 0, least = 0, most = 0;
};

class Bench {
public:
  // For kernels of `target`. Errors say what is missing: no device, or kernels for another one.
  static Result<std::unique_ptr<Bench>> open(const cuda::DriverApi &api, int index,
                                             const std::string &target);

  const cuda::Gpu &gpu() const { return *device; }

  Result<Kernel> load(const fb::Kernel &kernel);

  // Device memory that lives as long as the bench, or until drop().
  Result<cuda::CUdeviceptr> room(uint64_t bytes);
  Result<cuda::CUdeviceptr> filled(uint64_t bytes, uint8_t value);
  Result<cuda::CUdeviceptr> put(std::span<const std::byte> bytes);
  Result<cuda::CUdeviceptr> put(const cuda::StepInfo &step) {
    return put(std::as_bytes(std::span(&step, 1)));
  }
  // What an operand holds before its kernel runs.
  Result<cuda::CUdeviceptr> put(const fb::Bundle &bundle, const fb::Operand &operand);
  Status copyOut(void *to, cuda::CUdeviceptr from, uint64_t bytes);
  void drop() { memory.clear(); }

  // Launches once and waits. `operands` with the StepInfo at their end.
  Status run(const Kernel &kernel, uint64_t blocks, std::vector<cuda::CUdeviceptr> operands);

  // Launches once per repetition, each after the L2 cache was overwritten.
  Result<Time> time(const Kernel &kernel, uint64_t blocks, std::vector<cuda::CUdeviceptr> operands,
                    int repetitions);

private:
  Status launch(const Kernel &kernel, uint64_t blocks, std::vector<cuda::CUdeviceptr> &operands);
  const std::vector<std::byte> &pattern(const fb::Operand &operand);

  std::shared_ptr<const cuda::Gpu> device;
  std::string target;
  cuda::Stream stream;
  cuda::Event start, stop;
  cuda::Memory flushed; // what overwrites the L2 cache; made when it is first wanted
  std::vector<cuda::Memory> memory;
  std::map<std::tuple<fb::Element, uint32_t, float>, std::vector<std::byte>> patterns;
};

} // namespace moe::gpucheck

#endif
