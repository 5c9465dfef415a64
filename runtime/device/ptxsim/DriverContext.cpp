// Checks launches against the device's limits and runs queued work.
#include "runtime/device/ptxsim/DriverContext.h"

#include <algorithm>
#include <cstring>

namespace moe::ptxsim {

DeviceLimits limitsOf(unsigned arch) {
  constexpr int kib = 1024;
  switch (arch) {
  case 80:
    return {"ptxsim sm_80", 163 * kib, 164 * kib, 2048, 32, 40 << 20};
  case 86:
  case 89:
    return {arch == 86 ? "ptxsim sm_86" : "ptxsim sm_89", 99 * kib, 100 * kib, 1536, 24, 48 << 20};
  case 120:
    return {"ptxsim sm_120", 99 * kib, 100 * kib, 1536, 24, 96 << 20};
  case 100:
    return {"ptxsim sm_100", 227 * kib, 228 * kib, 2048, 32, 126 << 20};
  default:
    return {"ptxsim sm_90", 227 * kib, 228 * kib, 2048, 32, 50 << 20};
  }
}

int staticSharedBytes(const Entry &entry) {
  uint64_t bytes = 0;
  for (const Variable &variable : entry.shared)
    if (!variable.dynamic)
      bytes = (bytes + variable.align - 1) / variable.align * variable.align + variable.bytes;
  return int(bytes);
}

} // namespace moe::ptxsim

namespace moe::cuda {

using namespace ptxsim;

CUresult CUctx_st::fail(CUresult code, std::string detail) {
  details[code] = std::move(detail);
  return code;
}

bool CUctx_st::capturing() const {
  return std::any_of(streams.begin(), streams.end(),
                     [](const auto &stream) { return stream.second->capture != nullptr; });
}

CUresult CUctx_st::enqueue(CUstream handle, Work work) {
  CUstream_st &stream = handle ? *handle : defaultStream;
  if (stream.capture) {
    stream.capture->work.push_back(std::move(work));
    return CUresult::success;
  }
  // The default stream is ordered with all others.
  if (!handle)
    if (CUresult result = finishAll(); result != CUresult::success)
      return result;
  stream.queue.push_back(std::move(work));
  return options.eager || !handle ? finish(&stream) : CUresult::success;
}

CUresult CUctx_st::finish(CUstream handle) {
  CUstream_st &stream = handle ? *handle : defaultStream;
  std::vector<Work> queue = std::move(stream.queue);
  stream.queue.clear();
  for (const Work &work : queue)
    if (CUresult result = run(stream, work); result != CUresult::success)
      return result;
  return sticky;
}

CUresult CUctx_st::finishAll() {
  CUresult result = finish(nullptr);
  for (auto &[handle, stream] : streams)
    if (CUresult each = finish(handle); each != CUresult::success)
      result = each;
  return result;
}

int CUctx_st::blocksPerMultiprocessor(CUfunction function, uint64_t threads,
                                      uint64_t dynamicBytes) const {
  DeviceLimits limits = limitsOf(options.arch);
  uint64_t shared = uint64_t(staticSharedBytes(*function->entry)) + dynamicBytes + 1024;
  uint64_t warps = (std::max<uint64_t>(threads, 1) + 31) / 32;
  return int(std::min({uint64_t(limits.blocksPerMultiprocessor),
                       uint64_t(limits.threadsPerMultiprocessor) / 32 / warps,
                       uint64_t(limits.sharedPerMultiprocessor) / shared}));
}

CUresult CUctx_st::checkLaunch(const LaunchConfig &config, CUfunction function, LaunchWork &work) {
  const Entry &entry = *function->entry;
  auto refuse = [&](CUresult code, const std::string &why) {
    return fail(code, "launch of '" + entry.name + "': " + why);
  };
  uint64_t threads = uint64_t(config.blockDimX) * config.blockDimY * config.blockDimZ;
  uint64_t blocks = uint64_t(config.gridDimX) * config.gridDimY * config.gridDimZ;
  if (threads == 0 || threads > 1024 || config.blockDimZ > 64)
    return refuse(CUresult::invalidValue, "a block of " + std::to_string(threads) + " threads");
  if (blocks == 0 || config.gridDimX > 0x7fffffff || config.gridDimY > 65535 ||
      config.gridDimZ > 65535)
    return refuse(CUresult::invalidValue, "the grid is empty or too large");
  if (int64_t(config.sharedMemBytes) > function->mostDynamic)
    return refuse(CUresult::invalidValue, std::to_string(config.sharedMemBytes) +
                                              " bytes of dynamic shared memory, where " +
                                              std::to_string(function->mostDynamic) +
                                              " are allowed");
  work.function = function;
  work.launch.grid = {config.gridDimX, config.gridDimY, config.gridDimZ};
  work.launch.block = {config.blockDimX, config.blockDimY, config.blockDimZ};
  work.launch.sharedBytes = config.sharedMemBytes;
  int perMultiprocessor = blocksPerMultiprocessor(function, threads, config.sharedMemBytes);
  if (perMultiprocessor == 0)
    return refuse(CUresult::launchOutOfResources, "a block does not fit a multiprocessor");
  work.resident = uint32_t(perMultiprocessor) * options.multiprocessors;
  for (unsigned n = 0; n < config.numAttrs; ++n) {
    const LaunchAttribute &attribute = config.attrs[n];
    switch (attribute.id) {
    case LaunchAttributeId::ignore:
      break;
    case LaunchAttributeId::cooperative:
      if (attribute.value.cooperative && blocks > work.resident)
        return refuse(CUresult(720), "a cooperative grid of " + std::to_string(blocks) +
                                         " blocks, where " + std::to_string(work.resident) +
                                         " are resident");
      break;
    case LaunchAttributeId::clusterDimension:
      work.launch.cluster = {attribute.value.clusterDim.x, attribute.value.clusterDim.y,
                             attribute.value.clusterDim.z};
      break;
    case LaunchAttributeId::programmaticStreamSerialization:
      if (options.arch < 90)
        return refuse(CUresult::notSupported, "programmatic serialization needs sm_90");
      work.programmatic = attribute.value.programmaticStreamSerializationAllowed != 0;
      break;
    default:
      return refuse(CUresult::notSupported, "an unknown attribute");
    }
  }
  const auto &asked = work.launch.cluster, &stated = entry.cluster;
  const auto &cluster = stated[0] ? stated : asked;
  uint64_t together = uint64_t(cluster[0]) * cluster[1] * cluster[2];
  if (cluster[0] && options.arch < 90)
    return refuse(CUresult::notSupported, "clusters need sm_90");
  if (stated[0] && asked[0] && stated != asked)
    return refuse(CUresult::invalidValue, "the cluster is not the one that the kernel asks for");
  if ((cluster[0] || cluster[1] || cluster[2]) && (together == 0 || together > 8))
    return refuse(CUresult::invalidClusterSize,
                  "a cluster of " + std::to_string(together) + " blocks, expected 1 to 8");
  for (unsigned axis = 0; axis < 3 && together; ++axis)
    if (work.launch.grid[axis] % cluster[axis])
      return refuse(CUresult::invalidValue, "the grid is not whole clusters");
  if (together > work.resident)
    return refuse(CUresult::invalidClusterSize, "a cluster is larger than the device");
  return CUresult::success;
}

CUresult CUctx_st::launch(CUstream_st &stream, const LaunchWork &work) {
  Launch launch = work.launch;
  launch.params = work.params;
  launch.globals = work.function->module->globals;
  if (!work.programmatic || !stream.chain)
    stream.chain = memory.nextSegment;
  else
    launch.chain = stream.chain;
  Options machine;
  machine.seed = options.seed;
  machine.races = options.races;
  machine.uninitialised = options.uninitialised;
  machine.residentBlocks = work.resident;
  machine.counters = options.stats;
  const Entry &entry = *work.function->entry;
  auto begin = std::chrono::steady_clock::now();
  auto result = ptxsim::run(work.function->module->module, entry.name, launch, memory, machine);
  if (!result) {
    sticky = result.error().code == Code::Unimplemented ? CUresult::illegalInstruction
                                                        : CUresult::launchFailed;
    return fail(sticky, result.error().message);
  }
  std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  stats[entry.name].add(*result, seconds.count());
  return CUresult::success;
}

CUresult CUctx_st::run(CUstream_st &stream, const Work &work) {
  if (sticky != CUresult::success)
    return sticky;
  auto copied = [&](const Status &status) {
    stream.chain = 0;
    if (status)
      return CUresult::success;
    sticky = CUresult::illegalAddress;
    return fail(sticky, status.error().message);
  };
  if (auto *launched = std::get_if<LaunchWork>(&work))
    return launch(stream, *launched);
  if (auto *in = std::get_if<CopyIn>(&work))
    return copied(
        memory.copyIn(in->to, {in->staged.empty() ? in->from : in->staged.data(), in->bytes}));
  if (auto *out = std::get_if<CopyOut>(&work))
    return copied(memory.copyOut({out->to, out->bytes}, out->from));
  if (auto *fill = std::get_if<Fill>(&work))
    return copied(memory.fill(fill->to, fill->bytes, fill->value));
  std::get<Record>(work).event->time = std::chrono::steady_clock::now();
  return CUresult::success;
}

} // namespace moe::cuda
