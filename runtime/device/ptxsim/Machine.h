// Runs a kernel of a PTX module on the host, warp by warp, and stops at the first thing it does
// wrong: an access out of bounds, a race, a missing wait, a deadlock.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_MACHINE_H
#define MOE_RUNTIME_DEVICE_PTXSIM_MACHINE_H

#include "runtime/Status.h"
#include "runtime/device/ptxsim/Memory.h"
#include "runtime/device/ptxsim/Module.h"
#include "runtime/device/ptxsim/Stats.h"

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace moe::ptxsim {

struct Launch {
  std::array<uint32_t, 3> grid{1, 1, 1}, block{1, 1, 1};
  uint32_t sharedBytes = 0;          // dynamic
  std::span<const std::byte> params; // as Entry::params lays them out
  std::span<const uint64_t> globals; // of allocateGlobals
  // A programmatic launch: what kernels have written since this segment (Memory::nextSegment when
  // the first of the chain was launched) may be touched only after griddepcontrol.wait. 0: all may.
  uint32_t chain = 0;
  std::array<uint32_t, 3> cluster{}; // blocks; zero: what the entry says, or one
  // For tests of grids that are too large to run: only these clusters of the grid run, or blocks if
  // it has none larger, by their linear numbers, ascending. They see the whole grid's dimensions,
  // and blocks that they wait for must be among them. Empty: all run.
  std::span<const uint32_t> sample{};
};

struct Options {
  // Decides the order of warps and when asynchronous copies happen. A correct kernel gives the same
  // result with every seed.
  uint64_t seed = 0;
  bool races = true;
  bool uninitialised = true;
  bool counters = true;         // of Stats, but for `instructions`
  uint32_t residentBlocks = 16; // run interleaved; more start as these end
  // Instructions of all warps without a visible change, after which a spin counts as a deadlock.
  uint64_t spinLimit = 20'000'000;
};

// Allocates and initialises the .global and .const variables of a module, once per loaded module.
Result<std::vector<uint64_t>> allocateGlobals(const Module &, Memory &);

// Runs ENTRY to its end. An error names the kernel, the PTX line and the thread.
Result<Stats> run(const Module &, std::string_view entry, const Launch &, Memory &,
                  const Options & = {});

} // namespace moe::ptxsim

#endif
