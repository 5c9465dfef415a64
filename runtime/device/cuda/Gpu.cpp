// Opening a device, and the driver's errors in words.
#include "runtime/device/cuda/Gpu.h"

#include <cstdio>

namespace moe::cuda {

std::string bytesText(uint64_t bytes) {
  char text[40];
  bool large = bytes >> 30;
  std::snprintf(text, sizeof text, large ? "%.1f GiB" : "%.1f MiB",
                double(bytes) / (large ? 1 << 30 : 1 << 20));
  return text;
}

std::string versionText(int cudaVersion) {
  return std::to_string(cudaVersion / 1000) + "." + std::to_string(cudaVersion % 1000 / 10);
}

Gpu::~Gpu() {
  if (context)
    (void)api.cuDevicePrimaryCtxRelease(device);
}

Status Gpu::check(CUresult result, const std::string &what) const {
  if (result == CUresult::success)
    return ok();
  const char *name = nullptr, *text = nullptr;
  if (api.cuGetErrorName(result, &name) != CUresult::success || !name)
    name = "unknown error";
  if (api.cuGetErrorString(result, &text) != CUresult::success || !text)
    text = "no description";
  return Error{result == CUresult::outOfMemory ? Code::ResourceExhausted : Code::Unavailable,
               "cannot " + what + " on " + label + ": " + name + " (" +
                   std::to_string(int(result)) + "), " + text};
}

Status Gpu::makeCurrent() const { return check(api.cuCtxSetCurrent(context), "use the context"); }

Result<Memory> Gpu::allocate(uint64_t bytes, const std::string &what) const {
  CUdeviceptr memory = 0;
  if (bytes)
    MOE_TRY(check(api.cuMemAlloc(&memory, bytes), "allocate " + bytesText(bytes) + " for " + what));
  return Memory(api, memory);
}

Result<HostMemory> Gpu::allocateHost(uint64_t bytes, const std::string &what) const {
  void *memory = nullptr;
  if (bytes)
    MOE_TRY(check(api.cuMemHostAlloc(&memory, bytes, kMemHostAllocPortable),
                  "pin " + bytesText(bytes) + " of the system's memory for " + what));
  return HostMemory(api, memory);
}

Result<Stream> Gpu::makeStream() const {
  CUstream stream = nullptr;
  MOE_TRY(check(api.cuStreamCreate(&stream, kStreamNonBlocking), "make a stream"));
  return Stream(api, stream);
}

Result<Event> Gpu::makeEvent() const {
  CUevent event = nullptr;
  MOE_TRY(check(api.cuEventCreate(&event, kEventDisableTiming), "make an event"));
  return Event(api, event);
}

Status Gpu::start(const std::string &name, int index) {
  label = name + ":" + std::to_string(index);
  CUresult started = api.cuInit(0);
  int count = 0;
  if (started == CUresult::success)
    MOE_TRY(check(api.cuDeviceGetCount(&count), "count the devices"));
  if (started == CUresult::noDevice || (started == CUresult::success && count == 0))
    return Error{Code::Unavailable, "the CUDA driver finds no GPU: nvidia-smi and "
                                    "CUDA_VISIBLE_DEVICES tell more; or choose --device cpu"};
  MOE_TRY(check(started, "start the CUDA driver"));
  if (index >= count)
    return Error{Code::InvalidArgument, "there is no device " + label + ": the driver finds " +
                                            std::to_string(count) + ", " + name + ":0 to " + name +
                                            ":" + std::to_string(count - 1)};
  MOE_TRY(check(api.cuDeviceGet(&device, index), "find the device"));
  char text[256] = {};
  MOE_TRY(check(api.cuDeviceGetName(text, sizeof text - 1, device), "read the device's name"));
  model = text;
  label += " (" + model + ")";
  MOE_TRY(check(api.cuDriverGetVersion(&driverVersion), "read the driver's version"));
  const std::pair<DeviceAttribute, int *> attributes[] = {
      {DeviceAttribute::computeCapabilityMajor, &major},
      {DeviceAttribute::computeCapabilityMinor, &minor},
      {DeviceAttribute::multiprocessorCount, &multiprocessors},
      {DeviceAttribute::maxThreadsPerBlock, &maxThreads},
      {DeviceAttribute::maxSharedMemoryPerBlockOptin, &maxShared},
  };
  for (auto [attribute, value] : attributes)
    MOE_TRY(check(api.cuDeviceGetAttribute(value, attribute, device), "read the device's limits"));
  CUcontext made = nullptr;
  MOE_TRY(check(api.cuDevicePrimaryCtxRetain(&made, device), "make a context"));
  context = made;
  return makeCurrent();
}

Result<std::shared_ptr<const Gpu>> Gpu::open(const DriverApi &api, const std::string &name,
                                             int index) {
  auto gpu = std::make_shared<Gpu>(api);
  MOE_TRY(gpu->start(name, index));
  return std::shared_ptr<const Gpu>(std::move(gpu));
}

} // namespace moe::cuda
