// mmap and what goes with it.
#include "runtime/device/cpu/Memory.h"

#include <cerrno>
#include <cstring>
#include <string>
#include <sys/mman.h>

namespace moe::cpu {

Memory::~Memory() {
  if (length)
    munmap(base, length);
}

void Memory::protect() {
  if (length)
    mprotect(base, length, PROT_READ);
}

Result<Memory> Memory::zeroed(uint64_t bytes, std::string_view purpose, bool large) {
  constexpr uint64_t page = 4096, huge = uint64_t(2) << 20;
  if (bytes == 0)
    return Memory();
  uint64_t unit = large && bytes >= huge ? huge : page;
  uint64_t rounded = (bytes + unit - 1) / unit * unit;
  uint64_t mapped = unit == huge ? rounded + huge : rounded; // room to align
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  void *address = rounded < bytes || mapped < rounded || mapped > SIZE_MAX
                      ? MAP_FAILED
                      : mmap(nullptr, mapped, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (address == MAP_FAILED)
    return Error{Code::ResourceExhausted,
                 "cannot allocate " + std::to_string(bytes) + " bytes for " + std::string(purpose)};
  auto *start = static_cast<std::byte *>(address);
  if (unit == huge) {
    size_t head = (huge - reinterpret_cast<uintptr_t>(start) % huge) % huge;
    if (head)
      munmap(start, head);
    if (head < huge)
      munmap(start + head + rounded, huge - head);
    start += head;
    madvise(start, rounded, MADV_HUGEPAGE); // a wish: it may be off
  } else if (!large) {
    madvise(start, rounded, MADV_NOHUGEPAGE);
  }
  return Memory(start, rounded);
}

Result<Memory> Memory::executable(std::span<const std::byte> code, int file, uint64_t offset) {
  if (code.empty())
    return Memory();
  if (file >= 0) {
    void *address = mmap(nullptr, code.size(), PROT_READ | PROT_EXEC, MAP_PRIVATE, file, offset);
    if (address != MAP_FAILED)
      return Memory(static_cast<std::byte *>(address), code.size());
    // A file system mounted noexec refuses; a copy may still be allowed.
  }
  void *address =
      mmap(nullptr, code.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED)
    return Error{Code::ResourceExhausted,
                 "cannot allocate " + std::to_string(code.size()) + " bytes for the plan's code"};
  Memory memory(static_cast<std::byte *>(address), code.size());
  std::memcpy(address, code.data(), code.size());
  auto *start = static_cast<char *>(address);
  __builtin___clear_cache(start, start + code.size());
  if (mprotect(address, code.size(), PROT_READ | PROT_EXEC) != 0)
    return Error{Code::Unavailable, std::string("the system does not let this process map code "
                                                "executable: ") +
                                        std::strerror(errno)};
  return memory;
}

} // namespace moe::cpu
