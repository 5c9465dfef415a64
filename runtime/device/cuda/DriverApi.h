// The functions of the CUDA driver that the runtime uses, as a table, with the few types that they
// need. Nothing else here needs CUDA: neither a toolkit to build, nor a driver to start. The table
// is filled from the machine's driver (loadDriver) or by a simulator (runtime/device/ptxsim).
//
// Types, values and symbols are those of cuda.h of CUDA 11.8 to 13, and so is what the functions
// do; a table may return notSupported from what it does not have.
#ifndef MOE_RUNTIME_DEVICE_CUDA_DRIVERAPI_H
#define MOE_RUNTIME_DEVICE_CUDA_DRIVERAPI_H

#include "runtime/Status.h"

#include <cstddef>
#include <cstdint>

namespace moe::cuda {

// Values that the runtime tells apart; the driver returns many others.
enum class CUresult : int {
  success = 0,
  invalidValue = 1,
  outOfMemory = 2,
  notInitialized = 3,
  noDevice = 100,
  invalidDevice = 101,
  invalidImage = 200,
  invalidContext = 201,
  noBinaryForGpu = 209,
  eccUncorrectable = 214,
  invalidPtx = 218,
  jitCompilerNotFound = 221,
  unsupportedPtxVersion = 222,
  invalidHandle = 400,
  notFound = 500,
  notReady = 600,
  illegalAddress = 700,
  launchOutOfResources = 701,
  launchTimeout = 702,
  assertFailed = 710,
  hardwareStackError = 714,
  illegalInstruction = 715,
  misalignedAddress = 716,
  invalidAddressSpace = 717,
  invalidPc = 718,
  launchFailed = 719,
  notPermitted = 800,
  notSupported = 801,
  streamCaptureUnsupported = 900,
  streamCaptureInvalidated = 901,
  invalidClusterSize = 912,
  unknown = 999,
};

enum class DeviceAttribute : int {
  maxThreadsPerBlock = 1,
  maxGridDimX = 5,
  maxSharedMemoryPerBlock = 8, // without opting in
  warpSize = 10,
  maxRegistersPerBlock = 12,
  multiprocessorCount = 16,
  l2CacheSize = 38,
  maxThreadsPerMultiprocessor = 39,
  computeCapabilityMajor = 75,
  computeCapabilityMinor = 76,
  maxSharedMemoryPerMultiprocessor = 81,
  maxRegistersPerMultiprocessor = 82,
  maxSharedMemoryPerBlockOptin = 97,
};

enum class FunctionAttribute : int {
  maxThreadsPerBlock = 0,
  sharedSizeBytes = 1, // static
  localSizeBytes = 3,
  registers = 4,
  maxDynamicSharedSizeBytes = 8, // the one that can be set
};

// Options of cuModuleLoadDataEx; a value is passed in place of its pointer.
enum class JitOption : int {
  infoLogBuffer = 3,
  infoLogBufferSizeBytes = 4,
  errorLogBuffer = 5,
  errorLogBufferSizeBytes = 6,
};

enum class StreamCaptureMode : int { global = 0, threadLocal = 1, relaxed = 2 };

// Flags of cuStreamCreate, cuEventCreate, cuMemHostAlloc.
constexpr unsigned kStreamNonBlocking = 1;
constexpr unsigned kEventDefault = 0, kEventDisableTiming = 2;
constexpr unsigned kMemHostAllocPortable = 1, kMemHostAllocWriteCombined = 4;

using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx_st *;
using CUmodule = struct CUmod_st *;
using CUfunction = struct CUfunc_st *;
using CUstream = struct CUstream_st *;
using CUevent = struct CUevent_st *;
using CUgraph = struct CUgraph_st *;
using CUgraphExec = struct CUgraphExec_st *;

enum class LaunchAttributeId : int {
  ignore = 0,
  cooperative = 2,
  clusterDimension = 4,
  programmaticStreamSerialization = 6,
};

struct LaunchAttribute {
  LaunchAttributeId id;
  char pad[4];
  union {
    char bytes[64];
    int cooperative;
    struct {
      unsigned x, y, z;
    } clusterDim;
    int programmaticStreamSerializationAllowed;
    uint64_t align; // the driver's union holds pointers
  } value;
};

struct LaunchConfig {
  unsigned gridDimX, gridDimY, gridDimZ;
  unsigned blockDimX, blockDimY, blockDimZ;
  unsigned sharedMemBytes; // dynamic
  CUstream hStream;
  LaunchAttribute *attrs;
  unsigned numAttrs;
};

// What describes a tensor to the copy unit: written by cuTensorMapEncodeTiled, and passed to
// kernels as a parameter of 128 bytes that is aligned to 64.
struct alignas(64) TensorMapBytes {
  uint64_t opaque[16];
};
enum class TensorMapType : int {
  u8 = 0,
  u16 = 1,
  u32 = 2,
  s32 = 3,
  u64 = 4,
  s64 = 5,
  f16 = 6,
  f32 = 7,
  f64 = 8,
  bf16 = 9,
  f32Ftz = 10,
  tf32 = 11,
  tf32Ftz = 12,
};
enum class TensorMapInterleave : int { none = 0, bytes16 = 1, bytes32 = 2 };
enum class TensorMapSwizzle : int { none = 0, bytes32 = 1, bytes64 = 2, bytes128 = 3 };
enum class TensorMapPromotion : int { none = 0, bytes64 = 1, bytes128 = 2, bytes256 = 3 };
enum class TensorMapFill : int { zero = 0, nan = 1 };

// MOE_CUDA_FUNCTION(name in the table, symbol of the driver, parameters), and the same for those
// that a driver may lack: null in the table then.
#define MOE_CUDA_FUNCTIONS(MOE_CUDA_FUNCTION, MOE_CUDA_OPTIONAL)                                   \
  MOE_CUDA_FUNCTION(cuInit, cuInit, (unsigned flags))                                              \
  MOE_CUDA_FUNCTION(cuDriverGetVersion, cuDriverGetVersion, (int *version))                        \
  MOE_CUDA_FUNCTION(cuDeviceGetCount, cuDeviceGetCount, (int *count))                              \
  MOE_CUDA_FUNCTION(cuDeviceGet, cuDeviceGet, (CUdevice * device, int ordinal))                    \
  MOE_CUDA_FUNCTION(cuDeviceGetName, cuDeviceGetName, (char *name, int size, CUdevice device))     \
  MOE_CUDA_FUNCTION(cuDeviceGetAttribute, cuDeviceGetAttribute,                                    \
                    (int *value, DeviceAttribute attribute, CUdevice device))                      \
  MOE_CUDA_FUNCTION(cuDeviceTotalMem, cuDeviceTotalMem_v2, (size_t *bytes, CUdevice device))       \
  MOE_CUDA_FUNCTION(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain,                            \
                    (CUcontext * context, CUdevice device))                                        \
  MOE_CUDA_FUNCTION(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, (CUdevice device))    \
  MOE_CUDA_FUNCTION(cuCtxSetCurrent, cuCtxSetCurrent, (CUcontext context))                         \
  MOE_CUDA_FUNCTION(cuMemGetInfo, cuMemGetInfo_v2, (size_t *free, size_t *total))                  \
  MOE_CUDA_FUNCTION(cuMemAlloc, cuMemAlloc_v2, (CUdeviceptr * memory, size_t bytes))               \
  MOE_CUDA_FUNCTION(cuMemFree, cuMemFree_v2, (CUdeviceptr memory))                                 \
  MOE_CUDA_FUNCTION(cuMemHostAlloc, cuMemHostAlloc, (void **memory, size_t bytes, unsigned flags)) \
  MOE_CUDA_FUNCTION(cuMemFreeHost, cuMemFreeHost, (void *memory))                                  \
  MOE_CUDA_FUNCTION(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2,                                       \
                    (CUdeviceptr to, const void *from, size_t bytes, CUstream stream))             \
  MOE_CUDA_FUNCTION(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2,                                       \
                    (void *to, CUdeviceptr from, size_t bytes, CUstream stream))                   \
  MOE_CUDA_FUNCTION(cuMemsetD8Async, cuMemsetD8Async,                                              \
                    (CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream))          \
  MOE_CUDA_FUNCTION(                                                                               \
      cuModuleLoadDataEx, cuModuleLoadDataEx,                                                      \
      (CUmodule * module, const void *image, unsigned count, JitOption *options, void **values))   \
  MOE_CUDA_FUNCTION(cuModuleUnload, cuModuleUnload, (CUmodule module))                             \
  MOE_CUDA_FUNCTION(cuModuleGetFunction, cuModuleGetFunction,                                      \
                    (CUfunction * function, CUmodule module, const char *name))                    \
  MOE_CUDA_FUNCTION(cuFuncGetAttribute, cuFuncGetAttribute,                                        \
                    (int *value, FunctionAttribute attribute, CUfunction function))                \
  MOE_CUDA_FUNCTION(cuFuncSetAttribute, cuFuncSetAttribute,                                        \
                    (CUfunction function, FunctionAttribute attribute, int value))                 \
  MOE_CUDA_OPTIONAL(cuFuncGetParamInfo, cuFuncGetParamInfo,                                        \
                    (CUfunction function, size_t index, size_t *offset, size_t *bytes))            \
  MOE_CUDA_FUNCTION(cuOccupancyMaxActiveBlocksPerMultiprocessor,                                   \
                    cuOccupancyMaxActiveBlocksPerMultiprocessor,                                   \
                    (int *blocks, CUfunction function, int threads, size_t dynamicSharedBytes))    \
  MOE_CUDA_FUNCTION(                                                                               \
      cuLaunchKernelEx, cuLaunchKernelEx,                                                          \
      (const LaunchConfig *config, CUfunction function, void **parameters, void **extra))          \
  MOE_CUDA_OPTIONAL(cuTensorMapEncodeTiled, cuTensorMapEncodeTiled,                                \
                    (TensorMapBytes * map, TensorMapType type, uint32_t rank, void *address,       \
                     const uint64_t *sizes, const uint64_t *strides, const uint32_t *box,          \
                     const uint32_t *elementStrides, TensorMapInterleave interleave,               \
                     TensorMapSwizzle swizzle, TensorMapPromotion promotion, TensorMapFill fill))  \
  MOE_CUDA_FUNCTION(cuStreamCreate, cuStreamCreate, (CUstream * stream, unsigned flags))           \
  MOE_CUDA_FUNCTION(cuStreamDestroy, cuStreamDestroy_v2, (CUstream stream))                        \
  MOE_CUDA_FUNCTION(cuStreamSynchronize, cuStreamSynchronize, (CUstream stream))                   \
  MOE_CUDA_FUNCTION(cuStreamBeginCapture, cuStreamBeginCapture_v2,                                 \
                    (CUstream stream, StreamCaptureMode mode))                                     \
  MOE_CUDA_FUNCTION(cuStreamEndCapture, cuStreamEndCapture, (CUstream stream, CUgraph * graph))    \
  MOE_CUDA_FUNCTION(cuGraphInstantiateWithFlags, cuGraphInstantiateWithFlags,                      \
                    (CUgraphExec * exec, CUgraph graph, unsigned long long flags))                 \
  MOE_CUDA_FUNCTION(cuGraphLaunch, cuGraphLaunch, (CUgraphExec exec, CUstream stream))             \
  MOE_CUDA_FUNCTION(cuGraphExecDestroy, cuGraphExecDestroy, (CUgraphExec exec))                    \
  MOE_CUDA_FUNCTION(cuGraphDestroy, cuGraphDestroy, (CUgraph graph))                               \
  MOE_CUDA_FUNCTION(cuEventCreate, cuEventCreate, (CUevent * event, unsigned flags))               \
  MOE_CUDA_FUNCTION(cuEventRecord, cuEventRecord, (CUevent event, CUstream stream))                \
  MOE_CUDA_FUNCTION(cuEventSynchronize, cuEventSynchronize, (CUevent event))                       \
  MOE_CUDA_FUNCTION(cuEventElapsedTime, cuEventElapsedTime,                                        \
                    (float *milliseconds, CUevent start, CUevent end))                             \
  MOE_CUDA_FUNCTION(cuEventDestroy, cuEventDestroy_v2, (CUevent event))                            \
  MOE_CUDA_FUNCTION(cuGetErrorName, cuGetErrorName, (CUresult error, const char **text))           \
  MOE_CUDA_FUNCTION(cuGetErrorString, cuGetErrorString, (CUresult error, const char **text))

struct DriverApi {
#define MOE_CUDA_MEMBER(name, symbol, parameters) CUresult(*name) parameters = nullptr;
  MOE_CUDA_FUNCTIONS(MOE_CUDA_MEMBER, MOE_CUDA_MEMBER)
#undef MOE_CUDA_MEMBER
};

// The table of this machine's driver, loaded once and never unloaded. Errors: Unavailable if there
// is no driver, if it is too old, or if it does not start.
Result<const DriverApi *> loadDriver();

// The table of a driver library by name, for tests; loads it anew.
Result<DriverApi> loadDriverFrom(const char *library);

} // namespace moe::cuda

#endif
