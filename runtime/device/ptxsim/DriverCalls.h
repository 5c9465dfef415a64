// What the functions of the driver table share: the process's one device, and the way into its
// context.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_DRIVERCALLS_H
#define MOE_RUNTIME_DEVICE_PTXSIM_DRIVERCALLS_H

#include "runtime/device/ptxsim/DriverContext.h"

#include <memory>
#include <mutex>
#include <optional>

namespace moe::ptxsim {

// One device per process, as its driver has it. Calls take turns.
struct Process {
  std::mutex mutex;
  std::optional<DriverOptions> configured;
  bool initialised = false;
  unsigned retained = 0;
  std::unique_ptr<cuda::CUctx_st> context;

  DriverOptions options() const {
    return context ? context->options : configured ? *configured : DriverOptions::fromEnvironment();
  }
};

Process &process();
// The context of this thread.
cuda::CUcontext &current();

// Runs FUNCTION with the current context, unless there is none or it is broken.
template <class F> cuda::CUresult inContext(F function) {
  Process &p = process();
  std::lock_guard lock(p.mutex);
  if (!p.initialised)
    return cuda::CUresult::notInitialized;
  if (!p.context || current() != p.context.get())
    return cuda::CUresult::invalidContext;
  cuda::CUctx_st &context = *p.context;
  return context.sticky != cuda::CUresult::success ? context.sticky : function(context);
}

template <class Map, class Handle> bool knows(const Map &map, Handle handle) {
  return map.find(handle) != map.end();
}
inline bool knowsStream(const cuda::CUctx_st &context, cuda::CUstream stream) {
  return !stream || knows(context.streams, stream);
}

// For calls that may not be made while a stream is captured.
cuda::CUresult requireNoCapture(cuda::CUctx_st &);

// The entries of the table, by what they are about.
void fillDevices(cuda::DriverApi &);
void fillMemory(cuda::DriverApi &);
void fillModules(cuda::DriverApi &);
void fillStreams(cuda::DriverApi &);
void fillTensorMaps(cuda::DriverApi &);
void fillErrors(cuda::DriverApi &);

} // namespace moe::ptxsim

#endif
