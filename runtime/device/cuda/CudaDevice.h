// Runs the "cuda" programs of a plan through a table of the CUDA driver's functions: the driver of
// this machine, or a simulator.
#ifndef MOE_RUNTIME_DEVICE_CUDA_CUDADEVICE_H
#define MOE_RUNTIME_DEVICE_CUDA_CUDADEVICE_H

#include "runtime/device/Device.h"
#include "runtime/device/cuda/DriverApi.h"

#include <functional>

namespace moe::cuda {

struct CudaOptions {
  std::string name = "cuda"; // Device::name
  int index = 0;             // of the devices that the driver shows
  // Told how many bytes of the weights are on the device.
  std::function<void(uint64_t done, uint64_t total)> progress{};
};

// `api` must outlive the device and its executors, which share the device's primary context.
// Errors: Unavailable if there is no device, InvalidArgument for an index that there is not.
Result<std::unique_ptr<Device>> openCudaDevice(const DriverApi &api, CudaOptions options);

} // namespace moe::cuda

#endif
