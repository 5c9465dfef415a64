// Device memory of the simulator: allocations at made-up addresses with room between them, and for
// each byte whether it was ever written.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_MEMORY_H
#define MOE_RUNTIME_DEVICE_PTXSIM_MEMORY_H

#include "runtime/Status.h"
#include "runtime/device/ptxsim/Races.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace moe::ptxsim {

// What is known of a byte of global or shared memory.
enum class Byte : uint8_t {
  Unwritten = 0, // so that fresh pages need no initialisation
  Written = 1,
  InFlight = 2, // an asynchronous copy may write it at any time
  Lent = 3,     // an asynchronous copy may read it at any time
  RedZone = 4,  // belongs to nothing
};

// Bytes that are made when something first touches them, so that a kernel can be run on weights
// that are larger than the host's memory: only what it reads exists.
struct Source {
  uint64_t unit = 0; // bytes that are made together; the last ones may be fewer
  // Fills the bytes from OFFSET of the allocation on, a multiple of `unit`. Must not depend on the
  // order of calls.
  std::function<void(uint64_t offset, std::span<std::byte>)> make;
};

struct Unmap {
  uint64_t bytes = 0;
  void operator()(uint8_t *from) const;
};

struct Allocation {
  using Bytes = std::unique_ptr<uint8_t, Unmap>;

  uint64_t base = 0;
  uint64_t bytes = 0;
  // Of `bytes` bytes each, zero, in pages that take no memory of the host before they are touched.
  Bytes data, shadow;
  Source source;           // where it has one
  std::vector<bool> units; // of the source, that were made
  // Some kernel has written to it. Until then reads need no record, which makes weights cheap; the
  // price is that the very first write is not compared with reads before it.
  bool written = false;
  AccessPages accesses;
  std::string name; // of a module's variable

  bool holds(uint64_t address, uint64_t count) const {
    return address >= base && address - base <= bytes && count <= bytes - (address - base);
  }
  // Makes what the source has of COUNT bytes from OFFSET on, unless that was done.
  void supply(uint64_t offset, uint64_t count) {
    if (source.make && count)
      makeUnits(offset / source.unit, (offset + count - 1) / source.unit);
  }

private:
  void makeUnits(uint64_t first, uint64_t last);
};

struct BlockPool;

class Memory {
public:
  Memory();
  ~Memory();
  // A device pointer, aligned to 256 bytes. The bytes are unwritten, or come from SOURCE.
  Result<uint64_t> allocate(uint64_t bytes, std::string name = "", Source source = {});
  Status free(uint64_t address);

  Status copyIn(uint64_t to, std::span<const std::byte> from);
  // WRITTEN: reject bytes that nothing has written.
  Status copyOut(std::span<std::byte> to, uint64_t from, bool written = false) const;
  Status copy(uint64_t to, uint64_t from, uint64_t bytes);
  Status fill(uint64_t to, uint64_t bytes, std::byte value);

  // The allocation of ADDRESS, or null.
  Allocation *find(uint64_t address);
  // "12 bytes past the end of 256 bytes at 0x..": where ADDRESS lies.
  std::string describe(uint64_t address) const;
  uint64_t bytesInUse() const { return inUse; }

  // Numbers the segments of all launches, see Races.h.
  uint32_t nextSegment = 1;
  // Forgets who accessed what, when the numbers run out.
  void forgetAccesses();
  // What `run` keeps from launch to launch.
  std::unique_ptr<BlockPool> pool;

private:
  Result<Allocation *> range(uint64_t address, uint64_t bytes, const char *what) const;

  std::map<uint64_t, std::unique_ptr<Allocation>> allocations;
  uint64_t next = uint64_t(1) << 36;
  uint64_t inUse = 0;
};

} // namespace moe::ptxsim

#endif
