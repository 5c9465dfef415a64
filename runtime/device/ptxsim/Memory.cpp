// Addresses are never reused, so that a pointer that was freed stays invalid.
#include "runtime/device/ptxsim/Memory.h"

#include "runtime/device/ptxsim/Warp.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <sys/mman.h>

namespace moe::ptxsim {

namespace {

constexpr uint64_t kAlign = 256;
constexpr uint64_t kRedZone = 4096;

std::string hex(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

// Null if there is no room. Without a reservation, so that more can be allocated than will be used.
Allocation::Bytes newPages(uint64_t bytes) {
  void *pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return {pages == MAP_FAILED ? nullptr : static_cast<uint8_t *>(pages), {bytes}};
}

} // namespace

void Unmap::operator()(uint8_t *from) const { munmap(from, bytes); }

void Allocation::makeUnits(uint64_t first, uint64_t last) {
  units.resize((bytes + source.unit - 1) / source.unit);
  for (uint64_t unit = first; unit <= last; ++unit) {
    if (units[unit])
      continue;
    units[unit] = true;
    uint64_t offset = unit * source.unit, count = std::min(source.unit, bytes - offset);
    source.make(offset, {reinterpret_cast<std::byte *>(data.get()) + offset, count});
    std::memset(shadow.get() + offset, int(Byte::Written), count);
  }
}

Memory::Memory() : pool(std::make_unique<BlockPool>()) {}
Memory::~Memory() = default;

Result<uint64_t> Memory::allocate(uint64_t bytes, std::string name, Source source) {
  if (bytes == 0 || bytes > uint64_t(1) << 44)
    return Error{Code::InvalidArgument, "cannot allocate " + std::to_string(bytes) + " bytes"};
  auto fresh = std::make_unique<Allocation>();
  fresh->base = next;
  fresh->bytes = bytes;
  fresh->data = newPages(bytes);
  fresh->shadow = newPages(bytes);
  fresh->name = std::move(name);
  fresh->source = std::move(source);
  if (!fresh->data || !fresh->shadow)
    return Error{Code::ResourceExhausted, "no memory for " + std::to_string(bytes) + " bytes"};
  next += (bytes + kAlign - 1) / kAlign * kAlign + kRedZone;
  inUse += bytes;
  uint64_t base = fresh->base;
  allocations.emplace(base, std::move(fresh));
  return base;
}

Status Memory::free(uint64_t address) {
  auto found = allocations.find(address);
  if (found == allocations.end())
    return Error{Code::InvalidArgument, hex(address) + " was not allocated"};
  inUse -= found->second->bytes;
  allocations.erase(found);
  return ok();
}

Allocation *Memory::find(uint64_t address) {
  auto after = allocations.upper_bound(address);
  if (after == allocations.begin())
    return nullptr;
  Allocation *before = std::prev(after)->second.get();
  return before->holds(address, 1) ? before : nullptr;
}

std::string Memory::describe(uint64_t address) const {
  auto after = allocations.upper_bound(address);
  std::string text = hex(address);
  if (after != allocations.begin()) {
    const Allocation &before = *std::prev(after)->second;
    std::string of = " of the " + std::to_string(before.bytes) + " bytes at " + hex(before.base) +
                     (before.name.empty() ? "" : " ('" + before.name + "')");
    if (address - before.base < before.bytes)
      return text + ", byte " + std::to_string(address - before.base) + of;
    if (address - before.base < before.bytes + kRedZone)
      return text + ", " + std::to_string(address - before.base - before.bytes) +
             " bytes past the end" + of;
  }
  return text + ", which belongs to no allocation";
}

Result<Allocation *> Memory::range(uint64_t address, uint64_t bytes, const char *what) const {
  auto after = allocations.upper_bound(address);
  if (after != allocations.begin()) {
    Allocation *before = std::prev(after)->second.get();
    if (before->holds(address, bytes)) {
      before->supply(address - before->base, bytes);
      return before;
    }
  }
  return Error{Code::InvalidArgument, std::string(what) + " of " + std::to_string(bytes) +
                                          " bytes at " + describe(address)};
}

void Memory::forgetAccesses() {
  for (auto &[base, allocation] : allocations)
    allocation->accesses = {};
  pool->blocks.clear();
  nextSegment = 1;
}

Status Memory::copyIn(uint64_t to, std::span<const std::byte> from) {
  if (from.empty())
    return ok();
  MOE_ASSIGN(target, range(to, from.size(), "copy to the device"));
  std::memcpy(target->data.get() + (to - target->base), from.data(), from.size());
  std::memset(target->shadow.get() + (to - target->base), int(Byte::Written), from.size());
  return ok();
}

Status Memory::copyOut(std::span<std::byte> to, uint64_t from, bool written) const {
  if (to.empty())
    return ok();
  MOE_ASSIGN(source, range(from, to.size(), "copy from the device"));
  uint64_t offset = from - source->base;
  for (size_t i = 0; written && i < to.size(); ++i)
    if (source->shadow.get()[offset + i] == uint8_t(Byte::Unwritten))
      return Error{Code::InvalidArgument,
                   "copy from the device of bytes that nothing wrote: " + describe(from + i)};
  std::memcpy(to.data(), source->data.get() + offset, to.size());
  return ok();
}

Status Memory::copy(uint64_t to, uint64_t from, uint64_t bytes) {
  if (bytes == 0)
    return ok();
  MOE_ASSIGN(source, range(from, bytes, "copy from"));
  MOE_ASSIGN(target, range(to, bytes, "copy to"));
  uint64_t at = to - target->base, origin = from - source->base;
  std::memmove(target->data.get() + at, source->data.get() + origin, bytes);
  std::memmove(target->shadow.get() + at, source->shadow.get() + origin, bytes);
  return ok();
}

Status Memory::fill(uint64_t to, uint64_t bytes, std::byte value) {
  if (bytes == 0)
    return ok();
  MOE_ASSIGN(target, range(to, bytes, "fill"));
  std::memset(target->data.get() + (to - target->base), int(value), bytes);
  std::memset(target->shadow.get() + (to - target->base), int(Byte::Written), bytes);
  return ok();
}

} // namespace moe::ptxsim
