// Pages from the operating system: zeroed memory that is touched lazily, and executable code.
#ifndef MOE_RUNTIME_DEVICE_CPU_MEMORY_H
#define MOE_RUNTIME_DEVICE_CPU_MEMORY_H

#include "runtime/Status.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

namespace moe::cpu {

// Owns one mapping.
class Memory {
public:
  Memory() = default;
  Memory(Memory &&other) noexcept
      : base(std::exchange(other.base, nullptr)), length(std::exchange(other.length, 0)) {}
  Memory &operator=(Memory &&other) noexcept {
    std::swap(base, other.base);
    std::swap(length, other.length);
    return *this;
  }
  ~Memory();

  // `bytes` of zeros, aligned to a page, or to 2 MB if that large; huge pages where the system has
  // them and `large` is set. `purpose` is for the error: ResourceExhausted.
  static Result<Memory> zeroed(uint64_t bytes, std::string_view purpose, bool large = true);

  // Executable, read-only `code`: mapped from `file` at `offset` if file >= 0 and the system lets
  // us, otherwise a copy.
  static Result<Memory> executable(std::span<const std::byte> code, int file, uint64_t offset);

  std::byte *data() const { return base; }
  std::span<std::byte> bytes() const { return {base, length}; } // whole pages

  // From now on writing to it ends the process.
  void protect();

private:
  Memory(std::byte *base, size_t length) : base(base), length(length) {}
  std::byte *base = nullptr;
  size_t length = 0; // 0: nothing is mapped
};

} // namespace moe::cpu

#endif
