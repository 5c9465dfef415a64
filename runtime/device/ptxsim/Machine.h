// Runs a kernel of a PTX module on the host, warp by warp, and stops at the first thing it does
// wrong: an access out of bounds, a race, a missing wait, a deadlock.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_MACHINE_H
#define MOE_RUNTIME_DEVICE_PTXSIM_MACHINE_H

#include "runtime/Status.h"
#include "runtime/device/ptxsim/Memory.h"
#include "runtime/device/ptxsim/Module.h"

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
};

struct Options {
  // Decides the order of warps and when asynchronous copies happen. A correct kernel gives the same
  // result with every seed.
  uint64_t seed = 0;
  bool races = true;
  bool uninitialised = true;
  uint32_t residentBlocks = 16; // run interleaved; more start as these end
  // Instructions of all warps without a visible change, after which a spin counts as a deadlock.
  uint64_t spinLimit = 20'000'000;
};

// Counted per warp instruction.
struct Stats {
  uint64_t instructions = 0;
  uint64_t globalLoads = 0, globalStores = 0; // warp instructions
  uint64_t globalSectors = 0;                 // of 32 bytes, loads and stores
  uint64_t globalBytes = 0;                   // asked for by lanes
  uint64_t sharedAccesses = 0;                // warp instructions
  uint64_t sharedConflicts = 0;               // passes beyond those that the bytes need
};

// Allocates and initialises the .global and .const variables of a module, once per loaded module.
Result<std::vector<uint64_t>> allocateGlobals(const Module &, Memory &);

// Runs ENTRY to its end. An error names the kernel, the PTX line and the thread.
Result<Stats> run(const Module &, std::string_view entry, const Launch &, Memory &,
                  const Options & = {});

} // namespace moe::ptxsim

#endif
