// How lanes reach memory: addresses to bytes, with every check on the way.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_ACCESS_H
#define MOE_RUNTIME_DEVICE_PTXSIM_ACCESS_H

#include "runtime/device/ptxsim/Warp.h"

namespace moe::ptxsim {

enum class Touch : uint8_t { Read, Write, Atomic };

// A place that a lane may touch.
struct Place {
  uint8_t *data = nullptr;   // null: the access was reported
  uint8_t *shadow = nullptr; // a Byte for each, or null where none is kept
  Space space = Space::Generic;
  uint64_t offset = 0; // in its space; Global: the address; Shared: with the rank of another block
};

// The block whose shared memory an instruction names, and where in it: ADDRESS is shared, and gets
// an offset. Null if the cluster has no such block, or the instruction cannot name another's
// memory.
Block *ownerOf(Warp &, const Instruction &, uint64_t &address);
// Notes that a warp touches the shared memory of another block. False after a report.
bool visit(Warp &, const Instruction &, unsigned lane, Block &owner);

// Finds COUNT bytes at ADDRESS for LANE and checks bounds, alignment, asynchronous copies and
// races. STRONG: volatile, relaxed or ordered, which does not race with its like.
Place reach(Warp &, const Instruction &, unsigned lane, Space, uint64_t address, unsigned count,
            Touch, bool strong);

// The same for a range of any size, aligned to 16 bytes, that LANE has copied.
Place reachRange(Warp &, const Instruction &, unsigned lane, Space, uint64_t address,
                 uint32_t bytes, Touch);

// The same for all active lanes at once.
struct Places {
  std::array<uint64_t, kLanes> address; // in: as the operand names it; out: in its space
  std::array<uint8_t *, kLanes> data;
  std::array<uint8_t *, kLanes> shadow;
  Space space = Space::Generic; // of the last lane
  bool contiguous = false;      // the warp is full and its bytes follow each other
  bool written = true;          // all bytes of all lanes are
};
// False after a report.
bool reachAll(Warp &, const Instruction &, Space, Places &, unsigned count, Touch, bool strong);

// Reports what lanes read or write (VALUES, one after the other) of shared memory that another lane
// of their warp wrote since they last met.
bool checkLaneOrder(Warp &, const Instruction &, const Places &, unsigned bytes,
                    const uint8_t *values);
inline bool lanesInOrder(Warp &warp, const Instruction &i, const Places &places, unsigned bytes,
                         const uint8_t *values) {
  return places.space != Space::Shared || !warp.block->grid->options.races ||
         (!values && !warp.wroteShared) || checkLaneOrder(warp, i, places, bytes, values);
}

// The address that an operand names in a lane.
inline uint64_t addressOf(Warp &warp, const Operand &o, unsigned lane) {
  uint64_t base = o.bits == 64 ? warp.longs(o.slot)[lane] : warp.words(o.slot)[lane];
  return base + uint64_t(o.value);
}
inline void addressesOf(Warp &warp, const Operand &o, std::array<uint64_t, kLanes> &addresses) {
  if (o.bits == 64) {
    const Long *base = warp.longs(o.slot);
    for (unsigned lane = 0; lane < kLanes; ++lane)
      addresses[lane] = base[lane] + uint64_t(o.value);
  } else {
    const Word *base = warp.words(o.slot);
    for (unsigned lane = 0; lane < kLanes; ++lane)
      addresses[lane] = base[lane] + uint64_t(o.value);
  }
}

// Who a warp is to the memory that it accesses.
uint32_t segmentOf(Warp &);
// Checks and records an access to shared bytes of OWNER by a warp, now or on behalf of an earlier
// SEGMENT of it when it knew CLOCKS.
bool raceShared(Warp &, const Instruction &, unsigned lane, Block &owner, uint32_t offset,
                uint32_t count, bool writes, bool strong, bool async, uint32_t segment,
                const Clocks &);
inline bool raceShared(Warp &warp, const Instruction &i, unsigned lane, Block &owner,
                       uint32_t offset, uint32_t count, bool writes, bool strong) {
  return !warp.block->grid->options.races ||
         raceShared(warp, i, lane, owner, offset, count, writes, strong, false, segmentOf(warp),
                    warp.clocks);
}

// Whether a fence.proxy.async came between what warp WRITER wrote when its clock stood at CLOCK,
// and what this warp does now.
bool fencedForProxy(const Warp &, const Warp &writer, uint32_t clock);
// Reports unless that is so for all that was written to shared bytes of OWNER.
bool checkProxy(Warp &, const Instruction &, unsigned lane, Block &owner, uint32_t offset,
                uint32_t bytes, bool reads);
// The allocation that holds COUNT bytes, or null.
Allocation *findAllocation(Warp &, uint64_t address, uint64_t count);

bool allWritten(const uint8_t *shadow, size_t count);
void markBytes(uint8_t *shadow, size_t count, Byte);
// What a finished copy leaves: written where the source was, in whatever state that is.
void copyWritten(uint8_t *to, const uint8_t *from, size_t count);

// The shared offset of a shared or generic address, or nothing.
std::optional<uint32_t> sharedOffset(Space, uint64_t address);

// Reports a cache policy, the last operand, that nothing wrote.
inline bool requireHint(Warp &warp, const Instruction &i) {
  return !i.opcode.has(Mod::CacheHint) ||
         warp.requireDefined(i, warp.operand(i, i.groups - 1u), "the cache policy");
}

// Memory order of an instruction.
bool isStrong(const Opcode &);
bool acquires(const Opcode &);
bool releases(const Opcode &);
Scope scopeOf(const Opcode &);
// What an atomic, a strong load or a strong store makes known, after it touched PLACE.
void synchronise(Warp &, const Opcode &, const Place &, bool reads, bool writes);

// Counts the 32 byte sectors or the bank conflicts of a warp's access.
void countAccess(Warp &, Space, const uint64_t *addresses, uint32_t lanes, unsigned bytes,
                 bool writes);

} // namespace moe::ptxsim

#endif
