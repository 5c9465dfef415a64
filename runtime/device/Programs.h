// What a device reads of a plan, as plain views: devices do not know the file format. The session
// fills these from a verified plan (runtime/session/PlanPrograms.h); tests write them by hand.
#ifndef MOE_RUNTIME_DEVICE_PROGRAMS_H
#define MOE_RUNTIME_DEVICE_PROGRAMS_H

#include "runtime/device/TensorSpec.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace moe {

// As ProgramKind of Plan.fbs, with the same values.
enum class ProgramKind : uint8_t { Step, Vision };

// As OperandKind of Plan.fbs, with the same values.
enum class OperandKind : uint8_t { Input, Output, Arena, Weight, Cache, Counters };

struct Operand {
  OperandKind kind;
  uint32_t index = 0;  // Input, Output: into inputs, outputs. Weight: into sections. Cache: into
                       // pools
  uint64_t offset = 0; // bytes from the start of the buffer, for Cache of each page
  uint64_t bytes = 0;  // Arena, Weight, Counters: how many the kernel may touch; 0: all from there
};

struct Call {
  uint32_t kernel; // into Image::entries and DevicePlan::kernels
  std::vector<Operand> operands;
  uint32_t blocks = 0; // GPU: the most blocks that are of use
};

struct Program {
  int32_t tokens; // largest T: tokens of a step, tiles of kind Vision
  int32_t rows;   // largest R
  // What it takes and gives: indices into DevicePlan::inputs and outputs.
  std::vector<uint32_t> inputs{}, outputs{};
  uint64_t arenaBytes = 0;
  uint64_t scratchBytes = 0; // per worker
  uint64_t counterBytes = 0; // one per session, zero at its start
  std::vector<Call> calls{};
  ProgramKind kind = ProgramKind::Step;
};

struct CachePool {
  std::string name;
  int32_t chunk = 0; // positions see only those of their chunk; 0: all before them
  int32_t pageTokens = 64;
  uint64_t pageBytes = 0;
};

struct KernelSignature {
  std::string name;
  uint32_t operands = 0; // how many a call passes
};

// How a GPU's kernel is launched.
struct KernelLaunch {
  uint32_t threads = 0;     // of a block
  uint32_t sharedBytes = 0; // dynamic shared memory of a block
  uint32_t blocksPerSm = 0; // resident together on a multiprocessor
  bool dependent = false;   // may start before the kernel before it has ended
};

// The kernels of one target.
struct Image {
  static constexpr uint64_t absent = ~uint64_t(0);
  std::string target;                 // "cpu:x86-64-v4", "cuda:sm_90a"
  std::vector<std::string> features;  // the architecture first: "x86_64", "avx512f", ...; for CUDA
                                      // "cuda", "sm_90a"
  std::span<const std::byte> code;    // machine code, or PTX with a NUL at its end
  int file = -1;                      // descriptor of the file that holds the code, or -1
  uint64_t fileOffset = 0;            // of the code, a multiple of 4096
  std::vector<uint64_t> entries;      // per kernel: offset of its entry, or `absent`
  std::span<const std::byte> cubin{}; // GPU: the code, assembled; may be empty
  std::vector<KernelLaunch> launches{}; // GPU: per kernel
};

// The programs of one device. Sections are used in place and must outlive the executor.
struct DevicePlan {
  std::vector<std::span<const std::byte>> sections; // as the plan's; empty where not Weights
  std::vector<CachePool> pools;
  std::vector<Image> images;               // best first
  std::vector<TensorSpec> inputs, outputs; // of the programs, each once; no two of one kind of
                                           // program have one name
  std::vector<Program> programs;
  std::vector<KernelSignature> kernels; // as the plan's, other devices' too
};

} // namespace moe

#endif
