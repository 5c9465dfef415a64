// The functions of the driver table.
#include "runtime/device/ptxsim/Driver.h"

#include "runtime/device/ptxsim/DriverContext.h"
#include "runtime/device/ptxsim/Parser.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>

namespace moe::ptxsim {

namespace {

using namespace cuda;

// One device per process, as its driver has it. Calls take turns.
struct Process {
  std::mutex mutex;
  std::optional<DriverOptions> configured;
  bool initialised = false;
  unsigned retained = 0;
  std::unique_ptr<CUctx_st> context;

  DriverOptions options() const {
    return context ? context->options : configured ? *configured : DriverOptions::fromEnvironment();
  }
};

Process &process() {
  static Process *instance = new Process; // outlives other static objects that may still use it
  return *instance;
}
thread_local CUcontext current = nullptr;

uint64_t numberFrom(const char *name, uint64_t fallback) {
  const char *text = std::getenv(name);
  return text && *text ? std::strtoull(text, nullptr, 0) : fallback;
}

// Runs FUNCTION with the current context, unless there is none or it is broken.
template <class F> CUresult inContext(F function) {
  Process &p = process();
  std::lock_guard lock(p.mutex);
  if (!p.initialised)
    return CUresult::notInitialized;
  if (!p.context || current != p.context.get())
    return CUresult::invalidContext;
  CUctx_st &context = *p.context;
  return context.sticky != CUresult::success ? context.sticky : function(context);
}

template <class Map, class Handle> bool knows(const Map &map, Handle handle) {
  return map.find(handle) != map.end();
}
bool knowsStream(const CUctx_st &context, CUstream stream) {
  return !stream || knows(context.streams, stream);
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
  current = context;
  return CUresult::success;
}

CUresult memGetInfo(size_t *free, size_t *total) {
  return inContext([&](CUctx_st &context) {
    *total = context.options.memoryBytes;
    *free = *total - std::min<uint64_t>(*total, context.memory.bytesInUse());
    return CUresult::success;
  });
}

CUresult memAlloc(CUdeviceptr *memory, size_t bytes) {
  return inContext([&](CUctx_st &context) {
    if (CUresult result = requireNoCapture(context); result != CUresult::success)
      return result;
    if (bytes == 0)
      return CUresult::invalidValue;
    if (bytes > context.options.memoryBytes ||
        context.memory.bytesInUse() + bytes > context.options.memoryBytes)
      return CUresult::outOfMemory;
    auto address = context.memory.allocate(bytes);
    if (!address)
      return CUresult::outOfMemory;
    *memory = *address;
    return CUresult::success;
  });
}

CUresult memFree(CUdeviceptr memory) {
  return inContext([&](CUctx_st &context) {
    if (CUresult result = requireNoCapture(context); result != CUresult::success)
      return result;
    if (CUresult result = context.finishAll(); result != CUresult::success)
      return result;
    auto status = memory ? context.memory.free(memory) : ok();
    return status ? CUresult::success
                  : context.fail(CUresult::invalidValue, status.error().message);
  });
}

CUresult memHostAlloc(void **memory, size_t bytes, unsigned) {
  return inContext([&](CUctx_st &context) {
    if (bytes == 0)
      return CUresult::invalidValue;
    auto fresh = std::unique_ptr<std::byte[]>(new (std::nothrow) std::byte[bytes]);
    if (!fresh)
      return CUresult::outOfMemory;
    std::byte *at = fresh.get();
    context.pinned.emplace(at, std::pair(std::move(fresh), bytes));
    *memory = at;
    return CUresult::success;
  });
}

CUresult memFreeHost(void *memory) {
  return inContext([&](CUctx_st &context) {
    auto found = context.pinned.find(static_cast<std::byte *>(memory));
    if (found == context.pinned.end())
      return CUresult::invalidValue;
    CUresult result = context.finishAll();
    context.pinned.erase(found);
    return result;
  });
}

bool isPinned(const CUctx_st &context, const void *memory, size_t bytes) {
  auto *at = static_cast<const std::byte *>(memory);
  auto after = context.pinned.upper_bound(at);
  if (after == context.pinned.begin())
    return false;
  const auto &[start, held] = *std::prev(after);
  return size_t(at - start) <= held.second && bytes <= held.second - size_t(at - start);
}

CUresult checkRange(CUctx_st &context, CUdeviceptr address, size_t bytes) {
  Allocation *allocation = context.memory.find(address);
  if (bytes == 0 || (allocation && allocation->holds(address, bytes)))
    return CUresult::success;
  return context.fail(CUresult::invalidValue, "a copy of " + std::to_string(bytes) + " bytes at " +
                                                  context.memory.describe(address));
}

CUresult copyToDevice(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
  return inContext([&](CUctx_st &context) {
    if (!knowsStream(context, stream))
      return CUresult::invalidHandle;
    if (CUresult result = checkRange(context, to, bytes); result != CUresult::success)
      return result;
    CopyIn work{to, static_cast<const std::byte *>(from), bytes, {}};
    // Pageable memory is read before the call returns.
    if (!isPinned(context, from, bytes) && !(stream && stream->capture))
      work.staged.assign(work.from, work.from + bytes);
    return context.enqueue(stream, std::move(work));
  });
}

CUresult copyToHost(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return inContext([&](CUctx_st &context) {
    if (!knowsStream(context, stream))
      return CUresult::invalidHandle;
    if (CUresult result = checkRange(context, from, bytes); result != CUresult::success)
      return result;
    CUresult result = context.enqueue(stream, CopyOut{static_cast<std::byte *>(to), from, bytes});
    // Pageable memory is written before the call returns.
    bool late = isPinned(context, to, bytes) || (stream && stream->capture);
    return result == CUresult::success && !late ? context.finish(stream) : result;
  });
}

CUresult memsetBytes(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
  return inContext([&](CUctx_st &context) {
    if (!knowsStream(context, stream))
      return CUresult::invalidHandle;
    if (CUresult result = checkRange(context, to, bytes); result != CUresult::success)
      return result;
    return context.enqueue(stream, Fill{to, bytes, std::byte(value)});
  });
}

// Whether a module for that target runs on the device: "a" targets run on their own only.
bool runsOn(const std::string &target, unsigned arch) {
  if (!target.starts_with("sm_"))
    return false;
  char *end = nullptr;
  unsigned wants = unsigned(std::strtoul(target.c_str() + 3, &end, 10));
  if (*end == 'a')
    return wants == arch;
  return *end == 'f' ? wants / 10 == arch / 10 && wants <= arch : wants <= arch;
}

CUresult moduleLoadData(CUmodule *module, const void *image, unsigned count, JitOption *options,
                        void **values) {
  return inContext([&](CUctx_st &context) {
    char *log = nullptr;
    size_t room = 0;
    for (unsigned n = 0; n < count; ++n) {
      if (options[n] == JitOption::errorLogBuffer)
        log = static_cast<char *>(values[n]);
      if (options[n] == JitOption::errorLogBufferSizeBytes)
        room = reinterpret_cast<uintptr_t>(values[n]);
    }
    auto refuse = [&](CUresult code, const std::string &why) {
      if (log && room)
        std::snprintf(log, room, "%s", why.c_str());
      return context.fail(code, why);
    };
    static constexpr unsigned char binary[][4] = {
        {0x7f, 'E', 'L', 'F'}, {0x50, 0xed, 0x55, 0xba}, {0xb1, 0x43, 0x62, 0x46}};
    for (const auto &magic : binary)
      if (!std::memcmp(image, magic, 4))
        return refuse(CUresult::noBinaryForGpu, "the simulator runs PTX, not machine code");
    auto parsed = parse(static_cast<const char *>(image));
    if (!parsed)
      return refuse(CUresult::invalidPtx, parsed.error().message);
    if (parsed->version > 90)
      return refuse(CUresult::unsupportedPtxVersion, "PTX newer than 9.0");
    if (!runsOn(parsed->target, context.options.arch))
      return refuse(CUresult::invalidPtx, "PTX for " + parsed->target + " on an sm_" +
                                              std::to_string(context.options.arch));
    auto globals = allocateGlobals(*parsed, context.memory);
    if (!globals)
      return refuse(CUresult::outOfMemory, globals.error().message);
    auto loaded = std::make_unique<CUmod_st>();
    loaded->module = std::move(*parsed);
    loaded->globals = std::move(*globals);
    for (const Entry &entry : loaded->module.entries) {
      auto function = std::make_unique<CUfunc_st>();
      function->module = loaded.get();
      function->entry = &entry;
      function->mostDynamic = 48 * 1024 - staticSharedBytes(entry);
      context.functions[function.get()] = loaded.get();
      loaded->functions[entry.name] = std::move(function);
    }
    *module = loaded.get();
    context.modules.emplace(*module, std::move(loaded));
    return CUresult::success;
  });
}

CUresult moduleUnload(CUmodule module) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.modules, module))
      return CUresult::invalidHandle;
    CUresult result = context.finishAll();
    for (uint64_t address : module->globals)
      (void)bool(context.memory.free(address));
    std::erase_if(context.functions, [&](const auto &each) { return each.second == module; });
    context.modules.erase(module);
    return result;
  });
}

CUresult moduleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.modules, module))
      return CUresult::invalidHandle;
    auto found = module->functions.find(name);
    if (found == module->functions.end())
      return context.fail(CUresult::notFound, "the module has no '" + std::string(name) + "'");
    *function = found->second.get();
    return CUresult::success;
  });
}

CUresult funcGetAttribute(int *value, FunctionAttribute attribute, CUfunction function) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.functions, function))
      return CUresult::invalidHandle;
    const Entry &entry = *function->entry;
    auto product = [](const std::array<uint32_t, 3> &size) {
      return int(size[0] * size[1] * size[2]);
    };
    switch (attribute) {
    case FunctionAttribute::maxThreadsPerBlock:
      *value = entry.requiredBlock[0] ? product(entry.requiredBlock)
               : entry.mostThreads[0] ? product(entry.mostThreads)
                                      : 1024;
      break;
    case FunctionAttribute::sharedSizeBytes:
      *value = staticSharedBytes(entry);
      break;
    case FunctionAttribute::localSizeBytes:
      *value = int(entry.localBytes);
      break;
    case FunctionAttribute::registers:
      *value = 0; // nobody allocates any
      break;
    case FunctionAttribute::maxDynamicSharedSizeBytes:
      *value = function->mostDynamic;
      break;
    default:
      return CUresult::invalidValue;
    }
    return CUresult::success;
  });
}

CUresult funcSetAttribute(CUfunction function, FunctionAttribute attribute, int value) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.functions, function))
      return CUresult::invalidHandle;
    int most = limitsOf(context.options.arch).sharedPerBlock - staticSharedBytes(*function->entry);
    if (attribute != FunctionAttribute::maxDynamicSharedSizeBytes || value < 0 || value > most)
      return context.fail(CUresult::invalidValue, std::to_string(value) +
                                                      " bytes of dynamic shared memory, where " +
                                                      std::to_string(most) + " are possible");
    function->mostDynamic = value;
    return CUresult::success;
  });
}

CUresult funcGetParamInfo(CUfunction function, size_t index, size_t *offset, size_t *bytes) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.functions, function))
      return CUresult::invalidHandle;
    if (index >= function->entry->params.size())
      return CUresult::invalidValue;
    *offset = size_t(function->entry->params[index].offset);
    if (bytes)
      *bytes = size_t(function->entry->params[index].bytes);
    return CUresult::success;
  });
}

CUresult occupancy(int *blocks, CUfunction function, int threads, size_t dynamicSharedBytes) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.functions, function))
      return CUresult::invalidHandle;
    if (threads <= 0)
      return CUresult::invalidValue;
    bool fits = threads <= 1024 && int64_t(dynamicSharedBytes) <= function->mostDynamic;
    *blocks =
        fits ? context.blocksPerMultiprocessor(function, uint64_t(threads), dynamicSharedBytes) : 0;
    return CUresult::success;
  });
}

CUresult launchKernel(const LaunchConfig *config, CUfunction function, void **parameters,
                      void **extra) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.functions, function) || !knowsStream(context, config->hStream))
      return CUresult::invalidHandle;
    LaunchWork work;
    if (CUresult result = context.checkLaunch(*config, function, work); result != CUresult::success)
      return result;
    const Entry &entry = *function->entry;
    if (extra || (!parameters && !entry.params.empty()))
      return CUresult::invalidValue;
    work.params.resize(entry.paramBytes);
    for (size_t n = 0; n < entry.params.size(); ++n)
      std::memcpy(work.params.data() + entry.params[n].offset, parameters[n],
                  size_t(entry.params[n].bytes));
    return context.enqueue(config->hStream, std::move(work));
  });
}

CUresult streamCreate(CUstream *stream, unsigned) {
  return inContext([&](CUctx_st &context) {
    auto fresh = std::make_unique<CUstream_st>();
    *stream = fresh.get();
    context.streams.emplace(*stream, std::move(fresh));
    return CUresult::success;
  });
}

CUresult streamDestroy(CUstream stream) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.streams, stream))
      return CUresult::invalidHandle;
    CUresult result = context.finish(stream);
    for (auto &[handle, event] : context.events)
      if (event->stream == stream)
        event->stream = nullptr;
    context.streams.erase(stream);
    return result;
  });
}

CUresult streamSynchronize(CUstream stream) {
  return inContext([&](CUctx_st &context) {
    if (!knowsStream(context, stream))
      return CUresult::invalidHandle;
    if (stream && stream->capture)
      return requireNoCapture(context);
    return stream ? context.finish(stream) : context.finishAll();
  });
}

CUresult streamBeginCapture(CUstream stream, StreamCaptureMode) {
  return inContext([&](CUctx_st &context) {
    if (!stream || !knows(context.streams, stream))
      return CUresult::streamCaptureUnsupported;
    if (stream->capture)
      return CUresult::invalidValue;
    stream->capture = std::make_unique<CUgraph_st>();
    stream->invalidated = false;
    return CUresult::success;
  });
}

CUresult streamEndCapture(CUstream stream, CUgraph *graph) {
  return inContext([&](CUctx_st &context) {
    *graph = nullptr;
    if (!stream || !knows(context.streams, stream) || !stream->capture)
      return CUresult::invalidValue;
    auto captured = std::move(stream->capture);
    if (stream->invalidated)
      return CUresult::streamCaptureInvalidated;
    *graph = captured.get();
    context.graphs.emplace(*graph, std::move(captured));
    return CUresult::success;
  });
}

CUresult graphInstantiate(CUgraphExec *exec, CUgraph graph, unsigned long long) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.graphs, graph))
      return CUresult::invalidHandle;
    auto fresh = std::make_unique<CUgraphExec_st>();
    fresh->work = graph->work;
    *exec = fresh.get();
    context.executables.emplace(*exec, std::move(fresh));
    return CUresult::success;
  });
}

CUresult graphLaunch(CUgraphExec exec, CUstream stream) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.executables, exec) || !knowsStream(context, stream))
      return CUresult::invalidHandle;
    for (const Work &work : exec->work)
      if (CUresult result = context.enqueue(stream, work); result != CUresult::success)
        return result;
    return CUresult::success;
  });
}

CUresult graphExecDestroy(CUgraphExec exec) {
  return inContext([&](CUctx_st &context) {
    return context.executables.erase(exec) ? CUresult::success : CUresult::invalidHandle;
  });
}

CUresult graphDestroy(CUgraph graph) {
  return inContext([&](CUctx_st &context) {
    return context.graphs.erase(graph) ? CUresult::success : CUresult::invalidHandle;
  });
}

CUresult eventCreate(CUevent *event, unsigned flags) {
  return inContext([&](CUctx_st &context) {
    auto fresh = std::make_unique<CUevent_st>();
    fresh->timed = !(flags & kEventDisableTiming);
    *event = fresh.get();
    context.events.emplace(*event, std::move(fresh));
    return CUresult::success;
  });
}

CUresult eventRecord(CUevent event, CUstream stream) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.events, event) || !knowsStream(context, stream))
      return CUresult::invalidHandle;
    event->recorded = true;
    event->stream = stream;
    return context.enqueue(stream, Record{event});
  });
}

// Finishes all that the event's stream holds, which is more than what came before the event.
CUresult eventSynchronize(CUevent event) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.events, event))
      return CUresult::invalidHandle;
    return event->recorded && event->stream ? context.finish(event->stream) : CUresult::success;
  });
}

CUresult eventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.events, start) || !knows(context.events, end) || !start->recorded ||
        !end->recorded || !start->timed || !end->timed)
      return CUresult::invalidHandle;
    for (CUevent event : {start, end})
      if (event->stream && !event->stream->queue.empty())
        return CUresult::notReady;
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
    return CUresult::success;
  });
}

CUresult eventDestroy(CUevent event) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.events, event))
      return CUresult::invalidHandle;
    CUresult result = context.finishAll(); // it may yet be recorded
    context.events.erase(event);
    return result;
  });
}

struct ErrorText {
  CUresult code;
  const char *name, *text;
};
constexpr ErrorText kErrors[] = {
    {CUresult::success, "CUDA_SUCCESS", "no error"},
    {CUresult::invalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUresult::outOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUresult::notInitialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUresult::invalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUresult::invalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUresult::noBinaryForGpu, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {CUresult::invalidPtx, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {CUresult::unsupportedPtxVersion, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the PTX was compiled with an unsupported toolchain"},
    {CUresult::invalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUresult::notFound, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUresult::notReady, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CUresult::illegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS",
     "an illegal memory access was encountered"},
    {CUresult::launchOutOfResources, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
     "too many resources requested for launch"},
    {CUresult::illegalInstruction, "CUDA_ERROR_ILLEGAL_INSTRUCTION",
     "an illegal instruction was encountered"},
    {CUresult::launchFailed, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CUresult(720), "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", "too many blocks"},
    {CUresult::notSupported, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CUresult::streamCaptureUnsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CUresult::streamCaptureInvalidated, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {CUresult::unknown, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

CUresult errorText(CUresult code, const char **text, const char *ErrorText::*field) {
  for (const ErrorText &error : kErrors)
    if (error.code == code) {
      *text = error.*field;
      return CUresult::success;
    }
  *text = nullptr;
  return CUresult::invalidValue;
}

CUresult getErrorName(CUresult code, const char **text) {
  return errorText(code, text, &ErrorText::name);
}

CUresult getErrorString(CUresult code, const char **text) {
  std::lock_guard lock(process().mutex);
  if (CUctx_st *context = process().context.get())
    if (auto found = context->details.find(code); found != context->details.end()) {
      *text = found->second.c_str();
      return CUresult::success;
    }
  return errorText(code, text, &ErrorText::text);
}

} // namespace

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
    api.cuMemGetInfo = memGetInfo;
    api.cuMemAlloc = memAlloc;
    api.cuMemFree = memFree;
    api.cuMemHostAlloc = memHostAlloc;
    api.cuMemFreeHost = memFreeHost;
    api.cuMemcpyHtoDAsync = copyToDevice;
    api.cuMemcpyDtoHAsync = copyToHost;
    api.cuMemsetD8Async = memsetBytes;
    api.cuModuleLoadDataEx = moduleLoadData;
    api.cuModuleUnload = moduleUnload;
    api.cuModuleGetFunction = moduleGetFunction;
    api.cuFuncGetAttribute = funcGetAttribute;
    api.cuFuncSetAttribute = funcSetAttribute;
    api.cuFuncGetParamInfo = funcGetParamInfo;
    api.cuOccupancyMaxActiveBlocksPerMultiprocessor = occupancy;
    api.cuLaunchKernelEx = launchKernel;
    api.cuStreamCreate = streamCreate;
    api.cuStreamDestroy = streamDestroy;
    api.cuStreamSynchronize = streamSynchronize;
    api.cuStreamBeginCapture = streamBeginCapture;
    api.cuStreamEndCapture = streamEndCapture;
    api.cuGraphInstantiateWithFlags = graphInstantiate;
    api.cuGraphLaunch = graphLaunch;
    api.cuGraphExecDestroy = graphExecDestroy;
    api.cuGraphDestroy = graphDestroy;
    api.cuEventCreate = eventCreate;
    api.cuEventRecord = eventRecord;
    api.cuEventSynchronize = eventSynchronize;
    api.cuEventElapsedTime = eventElapsedTime;
    api.cuEventDestroy = eventDestroy;
    api.cuGetErrorName = getErrorName;
    api.cuGetErrorString = getErrorString;
    return api;
  }();
  return table;
}

} // namespace moe::ptxsim
