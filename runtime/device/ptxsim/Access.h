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
  uint64_t offset = 0; // in its space; Global: the address
};

// Finds COUNT bytes at ADDRESS for LANE and checks bounds, alignment, asynchronous copies and
// races. STRONG: volatile, relaxed or ordered, which does not race with its like.
Place reach(Warp &, const Instruction &, unsigned lane, Space, uint64_t address, unsigned count,
            Touch, bool strong);

// The address that an operand names in a lane.
inline uint64_t addressOf(Warp &warp, const Operand &o, unsigned lane) {
  uint64_t base = o.bits == 64 ? warp.longs(o.slot)[lane] : warp.words(o.slot)[lane];
  return base + uint64_t(o.value);
}

// Checks and records an access to shared words by a warp, now or on its behalf.
bool raceShared(Warp &, const Instruction &, unsigned lane, uint32_t offset, unsigned count,
                bool writes, bool strong, const Clocks &);

bool allWritten(const uint8_t *shadow, unsigned count);
void markBytes(uint8_t *shadow, unsigned count, Byte);

// The shared offset of a shared or generic address, or nothing.
std::optional<uint32_t> sharedOffset(Space, uint64_t address);

// Memory order of an instruction.
bool isStrong(const Opcode &);
bool acquires(const Opcode &);
bool releases(const Opcode &);
// What an atomic, a strong load or a strong store makes known, after it touched PLACE.
void synchronise(Warp &, const Opcode &, const Place &, bool reads, bool writes);

// Counts the 32 byte sectors or the bank conflicts of a warp's access.
void countAccess(Warp &, Space, const uint64_t *addresses, uint32_t lanes, unsigned bytes,
                 bool writes);

} // namespace moe::ptxsim

#endif
