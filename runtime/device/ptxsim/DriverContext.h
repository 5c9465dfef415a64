// The simulated context: memory, modules, and streams whose work runs when something waits for it.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_DRIVERCONTEXT_H
#define MOE_RUNTIME_DEVICE_PTXSIM_DRIVERCONTEXT_H

#include "runtime/device/ptxsim/Driver.h"
#include "runtime/device/ptxsim/Machine.h"

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

// What the opaque handles of the driver point to.
namespace moe::cuda {

struct CUfunc_st {
  CUmod_st *module = nullptr;
  const ptxsim::Entry *entry = nullptr;
  int mostDynamic = 0; // bytes of dynamic shared memory that launches may ask for
};

struct CUmod_st {
  ptxsim::Module module;
  std::vector<uint64_t> globals;
  std::map<std::string, std::unique_ptr<CUfunc_st>, std::less<>> functions;
};

struct CUevent_st {
  bool timed = true, recorded = false;
  CUstream_st *stream = nullptr; // of the last record
  std::chrono::steady_clock::time_point time;
};

} // namespace moe::cuda

namespace moe::ptxsim {

struct LaunchWork {
  cuda::CUfunction function = nullptr;
  Launch launch;
  std::vector<std::byte> params;
  uint32_t resident = 1; // blocks
  bool programmatic = false;
};
struct CopyIn {
  uint64_t to;
  const std::byte *from;
  size_t bytes;
  std::vector<std::byte> staged; // when the source may change at once
};
struct CopyOut {
  std::byte *to;
  uint64_t from;
  size_t bytes;
};
struct Fill {
  uint64_t to;
  size_t bytes;
  std::byte value;
};
struct Record {
  cuda::CUevent event;
};
using Work = std::variant<LaunchWork, CopyIn, CopyOut, Fill, Record>;

} // namespace moe::ptxsim

namespace moe::cuda {

struct CUgraph_st {
  std::vector<ptxsim::Work> work;
};
struct CUgraphExec_st {
  std::vector<ptxsim::Work> work;
};
struct CUstream_st {
  std::vector<ptxsim::Work> queue;
  std::unique_ptr<CUgraph_st> capture;
  bool invalidated = false; // the capture
  // Where the chain of programmatic launches began, or nothing after other work.
  uint32_t chain = 0;
};

struct CUctx_st {
  explicit CUctx_st(const ptxsim::DriverOptions &options) : options(options) {}

  // The first error of a kernel stays.
  CUresult fail(CUresult code, std::string detail);
  CUresult enqueue(CUstream, ptxsim::Work);
  // Runs what a stream, or all streams, have queued.
  CUresult finish(CUstream);
  CUresult finishAll();
  CUresult checkLaunch(const LaunchConfig &, CUfunction, ptxsim::LaunchWork &);
  bool capturing() const;
  int blocksPerMultiprocessor(CUfunction, uint64_t threads, uint64_t dynamicBytes) const;

  ptxsim::DriverOptions options;
  ptxsim::Memory memory;
  CUresult sticky = CUresult::success;
  std::map<CUresult, std::string> details; // why the last call with that result failed
  CUstream_st defaultStream;
  std::map<CUstream, std::unique_ptr<CUstream_st>> streams;
  std::map<CUmodule, std::unique_ptr<CUmod_st>> modules;
  std::map<CUfunction, CUmodule> functions;
  std::map<CUevent, std::unique_ptr<CUevent_st>> events;
  std::map<CUgraph, std::unique_ptr<CUgraph_st>> graphs;
  std::map<CUgraphExec, std::unique_ptr<CUgraphExec_st>> executables;
  std::map<const std::byte *, std::pair<std::unique_ptr<std::byte[]>, size_t>> pinned;
  std::map<std::string, ptxsim::KernelStats> stats;

private:
  CUresult run(CUstream_st &, const ptxsim::Work &);
  CUresult launch(CUstream_st &, const ptxsim::LaunchWork &);
};

} // namespace moe::cuda

namespace moe::ptxsim {

// Limits of a device, by its architecture.
struct DeviceLimits {
  const char *name;
  int sharedPerBlock, sharedPerMultiprocessor, threadsPerMultiprocessor, blocksPerMultiprocessor;
  int l2Bytes;
};
DeviceLimits limitsOf(unsigned arch);
int staticSharedBytes(const Entry &);

} // namespace moe::ptxsim

#endif
