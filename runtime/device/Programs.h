// What a device reads of a plan, as plain views: devices do not know the file format. The session
// fills these from a verified plan (runtime/session/PlanPrograms.h); tests write them by hand.
#ifndef MOE_RUNTIME_DEVICE_PROGRAMS_H
#define MOE_RUNTIME_DEVICE_PROGRAMS_H

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace moe {

// As OperandKind and InputName of Plan.fbs, with the same values.
enum class OperandKind : uint8_t { Input, Arena, Weight, Cache, Logits };
enum class InputName : uint8_t { Tokens, Positions, Sequences, Rows, GlobalTable, ChunkedTable };

struct Operand {
  OperandKind kind;
  uint32_t index = 0;  // Input: an InputName. Weight: into sections. Cache: into pools
  uint64_t offset = 0; // bytes from the start of the buffer, for Cache of each page
};

struct Call {
  uint32_t kernel; // into Image::entries
  std::vector<Operand> operands;
};

struct Program {
  int32_t tokens; // largest T
  int32_t rows;   // largest R
  uint64_t arenaBytes = 0;
  uint64_t scratchBytes = 0; // per worker
  std::vector<Call> calls;
};

struct CachePool {
  std::string name;  // "global" or "chunked"
  int32_t chunk = 0; // 0: all pages stay until the sequence ends
  int32_t pageTokens = 64;
  uint64_t pageBytes = 0;
};

// Machine code of one target.
struct Image {
  static constexpr uint64_t absent = ~uint64_t(0);
  std::string target;                // "cpu:x86-64-v4"
  std::vector<std::string> features; // the architecture first: "x86_64", "avx512f", ...
  std::span<const std::byte> code;
  int file = -1;                 // descriptor of the file that holds the code, or -1
  uint64_t fileOffset = 0;       // of the code, a multiple of 4096
  std::vector<uint64_t> entries; // per kernel: offset of its entry, or `absent`
};

// The programs of one device. Sections are used in place and must outlive the executor.
struct DevicePlan {
  std::vector<std::span<const std::byte>> sections; // as the plan's; empty where not Weights
  std::vector<CachePool> pools;
  std::vector<Image> images; // best first
  std::vector<Program> programs;
  int64_t vocab = 0; // columns of the logits
};

} // namespace moe

#endif
