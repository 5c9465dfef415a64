// Memory of the device and of the host, and copies between them.
#include "runtime/device/ptxsim/DriverCalls.h"

#include <algorithm>

namespace moe::ptxsim {

using namespace cuda;

namespace {

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

} // namespace

void fillMemory(DriverApi &api) {
  api.cuMemGetInfo = memGetInfo;
  api.cuMemAlloc = memAlloc;
  api.cuMemFree = memFree;
  api.cuMemHostAlloc = memHostAlloc;
  api.cuMemFreeHost = memFreeHost;
  api.cuMemcpyHtoDAsync = copyToDevice;
  api.cuMemcpyDtoHAsync = copyToHost;
  api.cuMemsetD8Async = memsetBytes;
}

} // namespace moe::ptxsim
