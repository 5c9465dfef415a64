// The driver table of runtime/device/cuda filled with the simulator: one device, whose kernels are
// checked as they run.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_DRIVER_H
#define MOE_RUNTIME_DEVICE_PTXSIM_DRIVER_H

#include "runtime/device/cuda/DriverApi.h"

#include <cstdint>
#include <string>

namespace moe::ptxsim {

struct DriverOptions {
  unsigned arch = 90;                        // MOE_PTXSIM_ARCH: 80, 86, 89, 90, 100, 120
  unsigned multiprocessors = 16;             // MOE_PTXSIM_SMS
  uint64_t memoryBytes = uint64_t(16) << 30; // MOE_PTXSIM_MEMORY
  uint64_t seed = 0;                         // MOE_PTXSIM_SEED: of the order in which warps run
  bool races = true;         // MOE_PTXSIM_RACES=0 turns them off, and what PDL may see
  bool uninitialised = true; // MOE_PTXSIM_UNINITIALISED=0 lets kernels use unwritten values
  // Work waits until something synchronises, as late as a device may take it up, so that a missing
  // synchronisation on the host shows. MOE_PTXSIM_EAGER=1 runs it at once.
  bool eager = false;
  bool stats = false; // MOE_PTXSIM_STATS=1 prints a table per kernel when the context is released

  static DriverOptions fromEnvironment();
};

// The table. There is one simulated device per process, whose options are those of the environment
// unless `configureDriver` was called; they are read when its primary context is retained.
//
// What a kernel does wrong becomes a sticky launchFailed (illegalInstruction for what is not
// simulated), and cuGetErrorString of it says what, where and by which thread until the context is
// released; it also explains other errors. Binary images are refused with noBinaryForGpu, and PTX
// that does not parse with invalidPtx and the parser's words in the error log.
const cuda::DriverApi &simulatedDriver();

void configureDriver(const DriverOptions &);

// What the kernels of the context have done so far: a line per kernel. Empty without a context.
std::string driverStats();

} // namespace moe::ptxsim

#endif
