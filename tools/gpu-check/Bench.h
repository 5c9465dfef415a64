// Kernels on a GPU, alone: memory, loading, and the time of a launch by the device's clock.
#ifndef MOE_TOOLS_GPU_CHECK_BENCH_H
#define MOE_TOOLS_GPU_CHECK_BENCH_H

#include "compiler/targets/cuda/CudaKernel.h"
#include "compiler/targets/cuda/CudaSpec.h"
#include "runtime/device/cuda/Gpu.h"
#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/Support/Error.h"
#include <memory>
#include <string>
#include <vector>

namespace moe::gpucheck {

// A kernel that is loaded on the device.
struct Kernel {
  cuda::Module module;
  cuda::CUfunction function = nullptr;
  std::string name;
  int64_t threads = 0, sharedBytes = 0, blocksPerSm = 0;
  int registers = 0;
};

// The time of a launch: microseconds, of several repetitions.
struct Time {
  double median = 0, least = 0, most = 0;
};

class Bench {
public:
  // Errors say what is missing: no driver, no device, no kernels for it.
  static llvm::Expected<std::unique_ptr<Bench>> open(const cuda::DriverApi &api, int index);

  const cuda::Gpu &gpu() const { return *device; }
  const codegen::CudaTarget &target() const { return cudaTarget; }

  // The kernel that `emit` builds, with `operands` pointers before the StepInfo.
  llvm::Expected<Kernel> load(const std::string &name, int64_t operands,
                              llvm::function_ref<void(codegen::CudaKernel &)> emit);
  llvm::Expected<Kernel> load(const codegen::CudaSpec &spec);

  // Device memory that lives as long as the bench, or until drop().
  llvm::Expected<cuda::CUdeviceptr> room(uint64_t bytes);
  // Filled with the same byte: 0x3c makes bf16 values of 0.0115.
  llvm::Expected<cuda::CUdeviceptr> filled(uint64_t bytes, uint8_t value);
  template <class T> llvm::Expected<cuda::CUdeviceptr> put(const std::vector<T> &values) {
    return copyIn(values.data(), values.size() * sizeof(T));
  }
  llvm::Error copyOut(void *to, cuda::CUdeviceptr from, uint64_t bytes);
  void drop() { memory.clear(); }

  // Launches once per repetition, each after the L2 cache was overwritten.
  llvm::Expected<Time> time(const Kernel &kernel, int64_t blocks,
                            std::vector<cuda::CUdeviceptr> operands, int repetitions);

private:
  llvm::Expected<cuda::CUdeviceptr> copyIn(const void *from, uint64_t bytes);
  llvm::Error check(cuda::CUresult result, const char *what);

  std::shared_ptr<const cuda::Gpu> device;
  codegen::CudaTarget cudaTarget;
  cuda::Stream stream;
  cuda::Event start, stop;
  cuda::Memory flushed;
  std::vector<cuda::Memory> memory;
};

} // namespace moe::gpucheck

#endif
