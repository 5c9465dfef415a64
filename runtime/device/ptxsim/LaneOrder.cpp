// Which lane of a warp wrote a word of shared memory since the lanes last met. They run in lockstep
// here, but not on hardware: what another lane wrote must not be used before a bar.warp.sync.
#include "runtime/device/ptxsim/Access.h"

#include <algorithm>
#include <cstring>

namespace moe::ptxsim {

namespace {

// The reads or writes of a lane, with the entries of its words. False if another lane wrote one.
template <unsigned words>
bool sweep(uint32_t *entries, const std::array<uint64_t, kLanes> &address, uint32_t active,
           uint32_t mine, bool checks, bool writes) {
  uint32_t foreign = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(active >> lane & 1))
      continue;
    uint32_t *at = entries + address[lane] / 4;
    for (unsigned n = 0; n < words; ++n) {
      uint32_t difference = at[n] ^ (mine | lane);
      foreign |= uint32_t(difference != 0 && difference < kLanes);
    }
    if (writes)
      for (unsigned n = 0; n < words; ++n)
        at[n] = mine | lane;
  }
  return !checks || !foreign;
}

} // namespace

bool checkLaneOrder(Warp &warp, const Instruction &i, const Places &places, unsigned bytes,
                    const uint8_t *values) {
  Block &block = *warp.block;
  uint32_t *entries = block.laneWrites.data();
  bool writes = values != nullptr, checks = warp.wroteShared;
  const uint32_t mine = warp.laneEpoch << 10 | uint32_t(warp.index) << 5;
  uint64_t all = 0;
  for (uint64_t address : places.address)
    all |= address;
  if (all >> kRankShift) // perhaps of another block
    return true;
  warp.wroteShared |= writes;
  bool plain = bytes >= 4 && !isStrong(i.opcode);
  // Nothing is wrong nearly always: first find that out.
  if (plain && (!writes || !checks)) {
    bool fine = bytes == 4   ? sweep<1>(entries, places.address, warp.active, mine, checks, writes)
                : bytes == 8 ? sweep<2>(entries, places.address, warp.active, mine, checks, writes)
                : bytes == 16
                    ? sweep<4>(entries, places.address, warp.active, mine, checks, writes)
                    : sweep<8>(entries, places.address, warp.active, mine, checks, writes);
    if (fine)
      return true;
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if (!(warp.active >> lane & 1))
      continue;
    for (uint64_t at = places.address[lane]; at < places.address[lane] + bytes; at += 4) {
      uint32_t &entry = entries[at / 4];
      uint32_t difference = entry ^ (mine | lane);
      unsigned piece = std::min(bytes, 4u);
      // To write what is there already does no harm.
      bool changes =
          writes && std::memcmp(block.shared.data() + at,
                                values + lane * bytes + (at - places.address[lane]), piece) != 0;
      if (checks && difference && difference < kLanes && plain && (!writes || changes)) {
        block.grid->report(warp, i, lane,
                           std::string("race: ") + (writes ? "writes" : "reads") + " shared " +
                               hexText(at) + ", which lane " + std::to_string(entry % kLanes) +
                               " of the same warp wrote, without a bar.warp.sync in between");
        return false;
      }
      if (writes) // of parts of words, and of strong accesses, nothing is known
        entry = plain ? mine | lane : 0;
    }
  }
  return true;
}

} // namespace moe::ptxsim
