// One GPU behind a driver table: its context, its limits, and what belongs to it.
#ifndef MOE_RUNTIME_DEVICE_CUDA_GPU_H
#define MOE_RUNTIME_DEVICE_CUDA_GPU_H

#include "runtime/device/cuda/DriverApi.h"

#include <memory>
#include <string>
#include <utility>

namespace moe::cuda {

// Owns what the driver handed out. Freed with the context current on the thread.
template <typename T, CUresult (*DriverApi::*Release)(T)> class Handle {
public:
  Handle() = default;
  Handle(const DriverApi &api, T value) : api(&api), value(value) {}
  Handle(Handle &&other) noexcept : api(other.api), value(std::exchange(other.value, T())) {}
  Handle &operator=(Handle &&other) noexcept {
    std::swap(api, other.api);
    std::swap(value, other.value);
    return *this;
  }
  ~Handle() {
    if (value)
      (void)(api->*Release)(value); // of a lost device it fails, and there is nothing to free
  }
  T get() const { return value; }

private:
  const DriverApi *api = nullptr;
  T value = T();
};

using Memory = Handle<CUdeviceptr, &DriverApi::cuMemFree>;
using HostMemory = Handle<void *, &DriverApi::cuMemFreeHost>; // pinned
using Module = Handle<CUmodule, &DriverApi::cuModuleUnload>;
using Stream = Handle<CUstream, &DriverApi::cuStreamDestroy>;
using Event = Handle<CUevent, &DriverApi::cuEventDestroy>;
using Graph = Handle<CUgraph, &DriverApi::cuGraphDestroy>;
using GraphExec = Handle<CUgraphExec, &DriverApi::cuGraphExecDestroy>;

// Holds the device's primary context, which other users of CUDA in the process share.
class Gpu {
public:
  // `label` names the device in messages: "cuda:0". Errors: Unavailable without a device,
  // InvalidArgument for an index that there is not.
  static Result<std::shared_ptr<const Gpu>> open(const DriverApi &api, const std::string &name,
                                                 int index);
  Gpu(const DriverApi &api) : api(api) {}
  ~Gpu();
  Gpu(const Gpu &) = delete;

  // An error for all but success: "cannot WHAT on cuda:0 (NAME): CUDA_ERROR_..., ...".
  Status check(CUresult result, const std::string &what) const;
  // Before any of the functions below, and before handles are freed, on each thread.
  Status makeCurrent() const;
  Result<Memory> allocate(uint64_t bytes, const std::string &what) const; // none for 0 bytes
  Result<HostMemory> allocateHost(uint64_t bytes, const std::string &what) const;
  Result<Stream> makeStream() const;
  Result<Event> makeEvent() const;

  const DriverApi &api;
  std::string label; // "cuda:0 (NVIDIA H100)"
  std::string model; // "NVIDIA H100"
  int driverVersion = 0;
  int major = 0, minor = 0; // compute capability
  int multiprocessors = 1;
  int maxThreads = 0, maxShared = 0; // of a block, the latter after opting in

private:
  Status start(const std::string &name, int index);

  CUdevice device = 0;
  CUcontext context = nullptr;
};

std::string bytesText(uint64_t bytes);    // "1.5 GiB"
std::string versionText(int cudaVersion); // "12.4" of 12040

} // namespace moe::cuda

#endif
