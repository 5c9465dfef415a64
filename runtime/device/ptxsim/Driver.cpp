// The device and its context, the options, and the whole table.
#include "runtime/device/ptxsim/Driver.h"

#include "runtime/device/ptxsim/DriverCalls.h"

#include <cstdio>
#include <cstdlib>

namespace moe::ptxsim {

using namespace cuda;

Process &process() {
  static Process *instance = new Process; // outlives other static objects that may still use it
  return *instance;
}

CUcontext &current() {
  static thread_local CUcontext context = nullptr;
  return context;
}

// For calls that may not be made while a stream is captured.
CUresult requireNoCapture(CUctx_st &context) {
  if (!context.capturing())
    return CUresult::success;
  for (auto &[handle, stream] : context.streams)
    stream->invalidated |= stream->capture != nullptr;
  return context.fail(CUresult::streamCaptureUnsupported,
                      "the call is not allowed while a stream is captured");
}

namespace {

uint64_t numberFrom(const char *name, uint64_t fallback) {
  const char *text = std::getenv(name);
  return text && *text ? std::strtoull(text, nullptr, 0) : fallback;
}

CUresult init(unsigned flags) {
  std::lock_guard lock(process().mutex);
  process().initialised = true;
  return flags ? CUresult::invalidValue : CUresult::success;
}

CUresult driverGetVersion(int *version) {
  *version = 13000;
  return CUresult::success;
}

CUresult deviceGetCount(int *count) {
  *count = 1;
  return process().initialised ? CUresult::success : CUresult::notInitialized;
}

CUresult deviceGet(CUdevice *device, int ordinal) {
  *device = 0;
  return ordinal == 0 ? CUresult::success : CUresult::invalidDevice;
}

CUresult deviceGetName(char *name, int size, CUdevice device) {
  std::lock_guard lock(process().mutex);
  if (device != 0 || size <= 0)
    return CUresult::invalidDevice;
  std::snprintf(name, size_t(size), "%s", limitsOf(process().options().arch).name);
  return CUresult::success;
}

CUresult deviceGetAttribute(int *value, DeviceAttribute attribute, CUdevice device) {
  std::lock_guard lock(process().mutex);
  if (device != 0)
    return CUresult::invalidDevice;
  DriverOptions options = process().options();
  DeviceLimits limits = limitsOf(options.arch);
  switch (attribute) {
  case DeviceAttribute::maxThreadsPerBlock:
    *value = 1024;
    break;
  case DeviceAttribute::maxGridDimX:
    *value = 0x7fffffff;
    break;
  case DeviceAttribute::maxSharedMemoryPerBlock:
    *value = 48 * 1024;
    break;
  case DeviceAttribute::warpSize:
    *value = 32;
    break;
  case DeviceAttribute::maxRegistersPerBlock:
  case DeviceAttribute::maxRegistersPerMultiprocessor:
    *value = 65536;
    break;
  case DeviceAttribute::multiprocessorCount:
    *value = int(options.multiprocessors);
    break;
  case DeviceAttribute::l2CacheSize:
    *value = limits.l2Bytes;
    break;
  case DeviceAttribute::maxThreadsPerMultiprocessor:
    *value = limits.threadsPerMultiprocessor;
    break;
  case DeviceAttribute::computeCapabilityMajor:
    *value = int(options.arch / 10);
    break;
  case DeviceAttribute::computeCapabilityMinor:
    *value = int(options.arch % 10);
    break;
  case DeviceAttribute::maxSharedMemoryPerMultiprocessor:
    *value = limits.sharedPerMultiprocessor;
    break;
  case DeviceAttribute::maxSharedMemoryPerBlockOptin:
    *value = limits.sharedPerBlock;
    break;
  default:
    return CUresult::invalidValue;
  }
  return CUresult::success;
}

CUresult deviceTotalMem(size_t *bytes, CUdevice device) {
  std::lock_guard lock(process().mutex);
  *bytes = process().options().memoryBytes;
  return device == 0 ? CUresult::success : CUresult::invalidDevice;
}

CUresult primaryCtxRetain(CUcontext *context, CUdevice device) {
  Process &p = process();
  std::lock_guard lock(p.mutex);
  if (!p.initialised || device != 0)
    return p.initialised ? CUresult::invalidDevice : CUresult::notInitialized;
  if (!p.context)
    p.context = std::make_unique<CUctx_st>(p.options());
  ++p.retained;
  *context = p.context.get();
  return CUresult::success;
}

CUresult primaryCtxRelease(CUdevice device) {
  Process &p = process();
  std::lock_guard lock(p.mutex);
  if (device != 0)
    return CUresult::invalidDevice;
  if (p.retained == 0)
    return CUresult::invalidContext;
  if (--p.retained == 0) {
    if (p.context->options.stats)
      std::fputs(statsTable(p.context->stats).c_str(), stderr);
    p.context.reset();
  }
  return CUresult::success;
}

CUresult ctxSetCurrent(CUcontext context) {
  std::lock_guard lock(process().mutex);
  if (context && context != process().context.get())
    return CUresult::invalidContext;
  current() = context;
  return CUresult::success;
}

} // namespace

void fillDevices(DriverApi &api) {
  api.cuInit = init;
  api.cuDriverGetVersion = driverGetVersion;
  api.cuDeviceGetCount = deviceGetCount;
  api.cuDeviceGet = deviceGet;
  api.cuDeviceGetName = deviceGetName;
  api.cuDeviceGetAttribute = deviceGetAttribute;
  api.cuDeviceTotalMem = deviceTotalMem;
  api.cuDevicePrimaryCtxRetain = primaryCtxRetain;
  api.cuDevicePrimaryCtxRelease = primaryCtxRelease;
  api.cuCtxSetCurrent = ctxSetCurrent;
}

DriverOptions DriverOptions::fromEnvironment() {
  DriverOptions options;
  options.arch = unsigned(numberFrom("MOE_PTXSIM_ARCH", options.arch));
  options.multiprocessors = unsigned(numberFrom("MOE_PTXSIM_SMS", options.multiprocessors));
  options.memoryBytes = numberFrom("MOE_PTXSIM_MEMORY", options.memoryBytes);
  options.seed = numberFrom("MOE_PTXSIM_SEED", options.seed);
  options.races = numberFrom("MOE_PTXSIM_RACES", options.races) != 0;
  options.uninitialised = numberFrom("MOE_PTXSIM_UNINITIALISED", options.uninitialised) != 0;
  options.eager = numberFrom("MOE_PTXSIM_EAGER", options.eager) != 0;
  options.stats = numberFrom("MOE_PTXSIM_STATS", options.stats) != 0;
  return options;
}

void configureDriver(const DriverOptions &options) {
  std::lock_guard lock(process().mutex);
  process().configured = options;
}

std::string driverStats() {
  std::lock_guard lock(process().mutex);
  return process().context ? statsTable(process().context->stats) : "";
}

const DriverApi &simulatedDriver() {
  static const DriverApi table = [] {
    DriverApi api;
    for (auto fill :
         {fillDevices, fillMemory, fillModules, fillStreams, fillTensorMaps, fillErrors})
      fill(api);
    return api;
  }();
  return table;
}

} // namespace moe::ptxsim
