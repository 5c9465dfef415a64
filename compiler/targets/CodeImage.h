// What a target makes of its kernels, as the facts that a plan holds.
#ifndef MOE_COMPILER_TARGETS_CODEIMAGE_H
#define MOE_COMPILER_TARGETS_CODEIMAGE_H

#include "llvm/ADT/StringMap.h"
#include <cstdint>
#include <string>
#include <vector>

namespace moe {

// How a kernel is launched as a grid of blocks of threads.
struct GridLaunch {
  uint32_t threads = 0;     // of a block
  uint32_t sharedBytes = 0; // of dynamic shared memory of a block
  uint32_t blocksPerSm = 0; // that are resident together on a multiprocessor
  uint32_t registers = 0;   // of a thread, as assembled; 0: unknown
  bool dependent = false;   // may start before the kernel before it has ended
};

// The kernels of one device, compiled for one version of it.
struct CodeImage {
  enum Kind { MachineCode, Ptx };

  std::string device; // "cpu"
  std::string target; // "cpu:x86-64-v4"
  Kind kind = MachineCode;
  std::vector<std::string> features; // what the processor must have
  std::vector<char> code;            // PTX has a NUL at its end
  std::vector<char> cubin;           // PTX, assembled; may be empty
  llvm::StringMap<uint64_t> entries; // of each kernel, in bytes from the start of `code`; PTX has 0
  llvm::StringMap<GridLaunch> launches; // of the kernels that are launched as grids
};

} // namespace moe

#endif
