// A driver for tests of CudaDevice: one to three devices in the host's memory, whose kernels are
// functions of the test. Work waits in its stream until something synchronises. It counts what is
// handed out, logs calls, and fails where it is told to.
#ifndef MOE_RUNTIME_DEVICE_CUDA_TESTDRIVER_H
#define MOE_RUNTIME_DEVICE_CUDA_TESTDRIVER_H

#include "runtime/device/cuda/DriverApi.h"

#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace moe::cuda {

struct TestKernel {
  // The parameters are addresses of host memory.
  std::function<void(std::span<const uint64_t> parameters, const LaunchConfig &config)> run;
  size_t parameters = 0;
  int registers = 40, staticShared = 0, maxThreads = 1024, occupancy = 4;
};

class TestDriver {
public:
  // ---- what the machine is, to be set before use ----
  int devices = 1, major = 9, minor = 0, multiprocessors = 4, version = 12080;
  int maxThreads = 1024, maxShared = 232448;
  size_t memoryTotal = size_t(8) << 20;
  std::map<std::string, TestKernel> kernels;
  // What loading an image gives: a cubin begins with "CUBIN".
  std::function<CUresult(const char *image)> load = [](const char *image) {
    return std::strncmp(image, "CUBIN", 5) ? CUresult::success : CUresult::noBinaryForGpu;
  };
  std::string jitLog;

  // ---- failures ----
  int failAt = 0; // the n-th call from now fails with `failWith`
  CUresult failWith = CUresult::unknown;
  bool failForever = false;            // and all after it
  CUresult sticky = CUresult::success; // of every call from now, once work has failed
  CUresult breakNextWork = CUresult::success;

  // ---- what happened ----
  int calls = 0, launches = 0, graphLaunches = 0;
  size_t bytesIn = 0, bytesOut = 0, memoryUsed = 0;
  std::vector<std::string> log;
  std::vector<LaunchConfig> configs;           // of each captured launch
  std::vector<bool> programmatic;              // whether it had the attribute
  std::map<std::string, int> functionSettings; // dynamic shared memory that was set
  size_t live() const {
    return memory.size() + hostMemory.size() + handles.size() + size_t(contexts);
  }

  const DriverApi &api();
  static TestDriver *current; // the table has no place for an object

private:
  using Work = std::function<CUresult()>;
  struct Object { // a stream, module, function, event or graph
    char kind;
    std::string name;
    std::vector<Work> work;
    bool capturing = false;
    std::vector<Work> captured;
    const TestKernel *kernel = nullptr;
  };

  // Counts and logs a call, and says how it fails.
  CUresult enter(const char *name) {
    ++calls;
    log.push_back(name);
    if (failAt && (calls == failAt || (failForever && calls > failAt)))
      return failWith;
    return sticky;
  }
  template <typename T> T make(char kind) {
    auto *object = new Object{kind, {}, {}, false, {}, nullptr};
    handles.insert(object);
    return reinterpret_cast<T>(object);
  }
  template <typename T> static Object *object(T handle) {
    return reinterpret_cast<Object *>(handle);
  }
  template <typename T> void destroy(T handle) {
    if (!handles.erase(object(handle)))
      std::abort(); // freed twice, or never made
    delete object(handle);
  }
  CUresult drain(Object *stream) {
    std::vector<Work> work = std::move(stream->work);
    stream->work.clear();
    for (Work &w : work) {
      if (breakNextWork != CUresult::success && sticky == CUresult::success)
        sticky = std::exchange(breakNextWork, CUresult::success);
      if (sticky != CUresult::success)
        return sticky;
      if (CUresult result = w(); result != CUresult::success)
        return sticky = result;
    }
    return CUresult::success;
  }
  CUresult enqueue(CUstream stream, Work work) {
    Object *s = object(stream);
    (s->capturing ? s->captured : s->work).push_back(std::move(work));
    return CUresult::success;
  }
  bool inMemory(uint64_t address, size_t bytes) const {
    auto after = memory.upper_bound(address);
    return after != memory.begin() &&
           address + bytes <= std::prev(after)->first + std::prev(after)->second;
  }

  std::map<uint64_t, size_t> memory;
  std::set<void *> hostMemory;
  std::set<Object *> handles;
  std::map<std::string, Object> functions; // live as long as the driver
  int contexts = 0;
  bool currentContext = false;

  friend struct TestDriverCalls;
};

inline TestDriver *TestDriver::current = nullptr;

#define MOE_ENTER(name)                                                                            \
  TestDriver &d = *TestDriver::current;                                                            \
  if (CUresult failure = d.enter(name); failure != CUresult::success)                              \
    return failure;

// A function that frees does so even when it fails.
#define MOE_ENTER_FREE(name)                                                                       \
  TestDriver &d = *TestDriver::current;                                                            \
  CUresult failure = d.enter(name);

struct TestDriverCalls {
  using R = CUresult;
  static R init(unsigned) {
    MOE_ENTER("cuInit");
    return d.devices ? R::success : R::noDevice;
  }
  static R driverGetVersion(int *version) {
    MOE_ENTER("cuDriverGetVersion");
    *version = d.version;
    return R::success;
  }
  static R deviceGetCount(int *count) {
    MOE_ENTER("cuDeviceGetCount");
    *count = d.devices;
    return R::success;
  }
  static R deviceGet(CUdevice *device, int ordinal) {
    MOE_ENTER("cuDeviceGet");
    *device = 100 + ordinal;
    return R::success;
  }
  static R deviceGetName(char *name, int size, CUdevice) {
    MOE_ENTER("cuDeviceGetName");
    std::strncpy(name, "Test GPU", size_t(size));
    return R::success;
  }
  static R deviceGetAttribute(int *value, DeviceAttribute attribute, CUdevice) {
    MOE_ENTER("cuDeviceGetAttribute");
    switch (attribute) {
    case DeviceAttribute::computeCapabilityMajor:
      *value = d.major;
      return R::success;
    case DeviceAttribute::computeCapabilityMinor:
      *value = d.minor;
      return R::success;
    case DeviceAttribute::multiprocessorCount:
      *value = d.multiprocessors;
      return R::success;
    case DeviceAttribute::maxThreadsPerBlock:
      *value = d.maxThreads;
      return R::success;
    case DeviceAttribute::maxSharedMemoryPerBlockOptin:
      *value = d.maxShared;
      return R::success;
    default:
      return R::invalidValue;
    }
  }
  static R deviceTotalMem(size_t *bytes, CUdevice) {
    MOE_ENTER("cuDeviceTotalMem");
    *bytes = d.memoryTotal;
    return R::success;
  }
  static R primaryCtxRetain(CUcontext *context, CUdevice) {
    MOE_ENTER("cuDevicePrimaryCtxRetain");
    ++d.contexts;
    *context = reinterpret_cast<CUcontext>(&d);
    return R::success;
  }
  static R primaryCtxRelease(CUdevice) {
    MOE_ENTER_FREE("cuDevicePrimaryCtxRelease");
    --d.contexts;
    return failure;
  }
  static R ctxSetCurrent(CUcontext) {
    MOE_ENTER("cuCtxSetCurrent");
    return R::success;
  }
  static R memGetInfo(size_t *free, size_t *total) {
    MOE_ENTER("cuMemGetInfo");
    *free = d.memoryTotal - d.memoryUsed;
    *total = d.memoryTotal;
    return R::success;
  }
  static R memAlloc(CUdeviceptr *memory, size_t bytes) {
    MOE_ENTER("cuMemAlloc");
    if (bytes > d.memoryTotal - d.memoryUsed)
      return R::outOfMemory;
    void *made = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(made, 0xa5, bytes);
    d.memory[ *memory = reinterpret_cast<uint64_t>(made)] = bytes;
    d.memoryUsed += bytes;
    return R::success;
  }
  static R memFree(CUdeviceptr memory) {
    MOE_ENTER_FREE("cuMemFree");
    d.memoryUsed -= d.memory.at(memory);
    d.memory.erase(memory);
    std::free(reinterpret_cast<void *>(memory));
    return failure;
  }
  static R memHostAlloc(void **memory, size_t bytes, unsigned) {
    MOE_ENTER("cuMemHostAlloc");
    *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    d.hostMemory.insert(*memory);
    return R::success;
  }
  static R memFreeHost(void *memory) {
    MOE_ENTER_FREE("cuMemFreeHost");
    if (!d.hostMemory.erase(memory))
      std::abort();
    std::free(memory);
    return failure;
  }
  static R memcpyHtoD(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    MOE_ENTER("cuMemcpyHtoDAsync");
    if (!d.inMemory(to, bytes))
      return R::invalidValue;
    d.bytesIn += bytes;
    return d.enqueue(stream, [=] {
      std::memcpy(reinterpret_cast<void *>(to), from, bytes);
      return R::success;
    });
  }
  static R memcpyDtoH(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    MOE_ENTER("cuMemcpyDtoHAsync");
    if (!d.inMemory(from, bytes))
      return R::invalidValue;
    d.bytesOut += bytes;
    return d.enqueue(stream, [=] {
      std::memcpy(to, reinterpret_cast<const void *>(from), bytes);
      return R::success;
    });
  }
  static R memsetD8(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
    MOE_ENTER("cuMemsetD8Async");
    if (!d.inMemory(to, bytes))
      return R::invalidValue;
    return d.enqueue(stream, [=] {
      std::memset(reinterpret_cast<void *>(to), value, bytes);
      return R::success;
    });
  }
  static R moduleLoad(CUmodule *module, const void *image, unsigned count, JitOption *options,
                      void **values) {
    MOE_ENTER("cuModuleLoadDataEx");
    R result = d.load(static_cast<const char *>(image));
    if (result == R::success)
      *module = d.make<CUmodule>('m');
    for (unsigned i = 0; i < count; ++i)
      if (options[i] == JitOption::errorLogBuffer)
        std::memcpy(values[i], d.jitLog.c_str(), d.jitLog.size() + 1);
    return result;
  }
  static R moduleUnload(CUmodule module) {
    MOE_ENTER_FREE("cuModuleUnload");
    d.destroy(module);
    return failure;
  }
  static R moduleGetFunction(CUfunction *function, CUmodule, const char *name) {
    MOE_ENTER("cuModuleGetFunction");
    auto kernel = d.kernels.find(name);
    if (kernel == d.kernels.end())
      return R::notFound;
    TestDriver::Object &object = d.functions[name];
    object.kind = 'f';
    object.name = name;
    object.kernel = &kernel->second;
    *function = reinterpret_cast<CUfunction>(&object);
    return R::success;
  }
  static R funcGetAttribute(int *value, FunctionAttribute attribute, CUfunction function) {
    MOE_ENTER("cuFuncGetAttribute");
    const TestKernel &kernel = *d.object(function)->kernel;
    *value = attribute == FunctionAttribute::maxThreadsPerBlock ? kernel.maxThreads
             : attribute == FunctionAttribute::sharedSizeBytes  ? kernel.staticShared
             : attribute == FunctionAttribute::registers        ? kernel.registers
                                                                : 0;
    return R::success;
  }
  static R funcSetAttribute(CUfunction function, FunctionAttribute, int value) {
    MOE_ENTER("cuFuncSetAttribute");
    d.functionSettings[d.object(function)->name] = value;
    return R::success;
  }
  static R funcGetParamInfo(CUfunction function, size_t index, size_t *offset, size_t *bytes) {
    MOE_ENTER("cuFuncGetParamInfo");
    if (index >= d.object(function)->kernel->parameters)
      return R::invalidValue;
    *offset = index * 8;
    *bytes = 8;
    return R::success;
  }
  static R occupancy(int *blocks, CUfunction function, int, size_t) {
    MOE_ENTER("cuOccupancyMaxActiveBlocksPerMultiprocessor");
    *blocks = d.object(function)->kernel->occupancy;
    return R::success;
  }
  static R launch(const LaunchConfig *config, CUfunction function, void **parameters, void **) {
    MOE_ENTER("cuLaunchKernelEx");
    const TestKernel *kernel = d.object(function)->kernel;
    std::vector<uint64_t> values;
    for (size_t i = 0; i < kernel->parameters; ++i)
      values.push_back(*static_cast<const uint64_t *>(parameters[i]));
    d.configs.push_back(*config);
    d.programmatic.push_back(config->numAttrs == 1 &&
                             config->attrs[0].id ==
                                 LaunchAttributeId::programmaticStreamSerialization);
    return d.enqueue(config->hStream, [&d, kernel, values, config = *config] {
      ++d.launches;
      kernel->run(values, config);
      return R::success;
    });
  }
  static R streamCreate(CUstream *stream, unsigned) {
    MOE_ENTER("cuStreamCreate");
    *stream = d.make<CUstream>('s');
    return R::success;
  }
  static R streamDestroy(CUstream stream) {
    MOE_ENTER_FREE("cuStreamDestroy");
    d.destroy(stream);
    return failure;
  }
  static R streamSynchronize(CUstream stream) {
    MOE_ENTER_FREE("cuStreamSynchronize");
    if (failure != R::success) // only work that failed makes it fail, and that ends all work
      d.object(stream)->work.clear();
    return failure != R::success ? failure : d.drain(d.object(stream));
  }
  static R beginCapture(CUstream stream, StreamCaptureMode) {
    MOE_ENTER("cuStreamBeginCapture");
    if (d.object(stream)->capturing)
      return R::streamCaptureUnsupported;
    d.object(stream)->capturing = true;
    return R::success;
  }
  static R endCapture(CUstream stream, CUgraph *graph) {
    MOE_ENTER_FREE("cuStreamEndCapture");
    d.object(stream)->capturing = false;
    *graph = nullptr;
    if (failure != R::success)
      return failure;
    *graph = d.make<CUgraph>('g');
    d.object(*graph)->work = std::move(d.object(stream)->captured);
    return R::success;
  }
  static R graphInstantiate(CUgraphExec *exec, CUgraph graph, unsigned long long) {
    MOE_ENTER("cuGraphInstantiateWithFlags");
    *exec = d.make<CUgraphExec>('x');
    d.object(*exec)->work = d.object(graph)->work;
    return R::success;
  }
  static R graphLaunch(CUgraphExec exec, CUstream stream) {
    MOE_ENTER("cuGraphLaunch");
    ++d.graphLaunches;
    for (const auto &work : d.object(exec)->work)
      d.enqueue(stream, work);
    return R::success;
  }
  static R graphExecDestroy(CUgraphExec exec) {
    MOE_ENTER_FREE("cuGraphExecDestroy");
    d.destroy(exec);
    return failure;
  }
  static R graphDestroy(CUgraph graph) {
    MOE_ENTER_FREE("cuGraphDestroy");
    d.destroy(graph);
    return failure;
  }
  static R eventCreate(CUevent *event, unsigned) {
    MOE_ENTER("cuEventCreate");
    *event = d.make<CUevent>('e');
    return R::success;
  }
  static R eventRecord(CUevent event, CUstream stream) {
    MOE_ENTER("cuEventRecord");
    d.object(event)->name.assign(reinterpret_cast<const char *>(&stream), sizeof(CUstream));
    return R::success;
  }
  static R eventSynchronize(CUevent event) {
    MOE_ENTER("cuEventSynchronize");
    CUstream stream;
    std::memcpy(static_cast<void *>(&stream), d.object(event)->name.data(), sizeof(CUstream));
    return d.drain(d.object(stream));
  }
  static R eventElapsedTime(float *milliseconds, CUevent, CUevent) {
    MOE_ENTER("cuEventElapsedTime");
    *milliseconds = 1;
    return R::success;
  }
  static R eventDestroy(CUevent event) {
    MOE_ENTER_FREE("cuEventDestroy");
    d.destroy(event);
    return failure;
  }
  static R getErrorName(R error, const char **text) {
    *text = error == R::outOfMemory      ? "CUDA_ERROR_OUT_OF_MEMORY"
            : error == R::illegalAddress ? "CUDA_ERROR_ILLEGAL_ADDRESS"
            : error == R::invalidPtx     ? "CUDA_ERROR_INVALID_PTX"
                                         : "CUDA_ERROR_OTHER";
    return R::success;
  }
  static R getErrorString(R, const char **text) {
    *text = "said the driver";
    return R::success;
  }
};
#undef MOE_ENTER
#undef MOE_ENTER_FREE

inline const DriverApi &TestDriver::api() {
  using C = TestDriverCalls;
  current = this;
  static DriverApi api;
  api.cuInit = C::init;
  api.cuDriverGetVersion = C::driverGetVersion;
  api.cuDeviceGetCount = C::deviceGetCount;
  api.cuDeviceGet = C::deviceGet;
  api.cuDeviceGetName = C::deviceGetName;
  api.cuDeviceGetAttribute = C::deviceGetAttribute;
  api.cuDeviceTotalMem = C::deviceTotalMem;
  api.cuDevicePrimaryCtxRetain = C::primaryCtxRetain;
  api.cuDevicePrimaryCtxRelease = C::primaryCtxRelease;
  api.cuCtxSetCurrent = C::ctxSetCurrent;
  api.cuMemGetInfo = C::memGetInfo;
  api.cuMemAlloc = C::memAlloc;
  api.cuMemFree = C::memFree;
  api.cuMemHostAlloc = C::memHostAlloc;
  api.cuMemFreeHost = C::memFreeHost;
  api.cuMemcpyHtoDAsync = C::memcpyHtoD;
  api.cuMemcpyDtoHAsync = C::memcpyDtoH;
  api.cuMemsetD8Async = C::memsetD8;
  api.cuModuleLoadDataEx = C::moduleLoad;
  api.cuModuleUnload = C::moduleUnload;
  api.cuModuleGetFunction = C::moduleGetFunction;
  api.cuFuncGetAttribute = C::funcGetAttribute;
  api.cuFuncSetAttribute = C::funcSetAttribute;
  api.cuFuncGetParamInfo = C::funcGetParamInfo;
  api.cuOccupancyMaxActiveBlocksPerMultiprocessor = C::occupancy;
  api.cuLaunchKernelEx = C::launch;
  api.cuStreamCreate = C::streamCreate;
  api.cuStreamDestroy = C::streamDestroy;
  api.cuStreamSynchronize = C::streamSynchronize;
  api.cuStreamBeginCapture = C::beginCapture;
  api.cuStreamEndCapture = C::endCapture;
  api.cuGraphInstantiateWithFlags = C::graphInstantiate;
  api.cuGraphLaunch = C::graphLaunch;
  api.cuGraphExecDestroy = C::graphExecDestroy;
  api.cuGraphDestroy = C::graphDestroy;
  api.cuEventCreate = C::eventCreate;
  api.cuEventRecord = C::eventRecord;
  api.cuEventSynchronize = C::eventSynchronize;
  api.cuEventElapsedTime = C::eventElapsedTime;
  api.cuEventDestroy = C::eventDestroy;
  api.cuGetErrorName = C::getErrorName;
  api.cuGetErrorString = C::getErrorString;
  return api;
}

} // namespace moe::cuda

#endif
