// Bounds, alignment, validity, races, and counters of memory accesses.
#include "runtime/device/ptxsim/Access.h"

#include <algorithm>
#include <cstring>

namespace moe::ptxsim {

bool isStrong(const Opcode &code) {
  return code.hasAny({Mod::Volatile, Mod::Relaxed, Mod::Acquire, Mod::Release, Mod::AcqRel}) ||
         code.op == Op::Atom || code.op == Op::Red;
}
bool acquires(const Opcode &code) { return code.hasAny({Mod::Acquire, Mod::AcqRel}); }
bool releases(const Opcode &code) { return code.hasAny({Mod::Release, Mod::AcqRel}); }

bool allWritten(const uint8_t *shadow, unsigned count) {
  constexpr uint64_t ones = 0x0101010101010101;
  for (; count >= 8; shadow += 8, count -= 8) {
    uint64_t eight;
    std::memcpy(&eight, shadow, 8);
    if ((eight & ones) != ones) // Written or Lent
      return false;
  }
  uint8_t all = 1;
  for (unsigned i = 0; i < count; ++i)
    all &= shadow[i];
  return all != 0;
}

void markBytes(uint8_t *shadow, unsigned count, Byte state) {
  std::memset(shadow, int(state), count);
}

std::optional<uint32_t> sharedOffset(Space space, uint64_t address) {
  if (space == Space::Generic)
    address -= kSharedWindow;
  return address < kWindowBytes ? std::optional(uint32_t(address)) : std::nullopt;
}

namespace {

const char *verb(Touch touch) {
  return touch == Touch::Read ? "reads" : touch == Touch::Write ? "writes" : "updates";
}

std::string bytesAt(unsigned count, const char *space, uint64_t address) {
  return std::to_string(count) + " bytes at " + space + " " + hexText(address);
}

bool raceWord(Warp &warp, const Instruction &i, unsigned lane, RaceWord &word, uint64_t address,
              unsigned mask, bool writes, bool strong, const Clocks &clocks, const char *space) {
  Grid &grid = *warp.block->grid;
  if (word.launch != grid.launchNumber) {
    word = RaceWord();
    word.launch = grid.launchNumber;
  }
  Epoch epoch;
  epoch.clock = clocks.own[warp.index];
  epoch.block = warp.block->index;
  epoch.warp = warp.index;
  epoch.lane = uint8_t(lane);
  epoch.mask = uint8_t(mask & 15);
  epoch.strong = strong;
  epoch.line = i.line;
  epoch.stamp = warp.stamp;
  const Epoch *other = recordAccess(word, epoch, writes, clocks);
  if (!other)
    return true;
  bool wrote = other->line == word.write.line && other->stamp == word.write.stamp;
  grid.report(warp, i, lane,
              std::string("race: ") + (writes ? "writes " : "reads ") + space + " " +
                  hexText(address) + ", which block " + std::to_string(other->block) + " warp " +
                  std::to_string(other->warp) + " lane " + std::to_string(other->lane) +
                  (wrote ? " wrote" : " read") + " at line " + std::to_string(other->line) +
                  " with nothing in between that orders them");
  return false;
}

// Calls EACH with every word that the bytes touch, and the mask of its bytes.
template <class F> bool eachWord(uint64_t offset, unsigned count, F each) {
  for (uint64_t at = offset; at < offset + count;) {
    unsigned first = unsigned(at & 3),
             bytes = std::min<unsigned>(4 - first, unsigned(offset + count - at));
    if (!each(at & ~uint64_t(3), ((1u << bytes) - 1) << first))
      return false;
    at += bytes;
  }
  return true;
}

bool checkState(Warp &warp, const Instruction &i, unsigned lane, const char *space,
                uint64_t address, const uint8_t *shadow, unsigned count, Touch touch) {
  uint8_t any = 0;
  for (unsigned n = 0; n < count; ++n)
    any |= shadow[n];
  if (any <= uint8_t(Byte::Written)) // nothing but Written and Unwritten
    return true;
  for (unsigned n = 0; n < count; ++n) {
    Byte state = Byte(shadow[n]);
    if (state == Byte::Unwritten || state == Byte::Written ||
        (state == Byte::Lent && touch == Touch::Read))
      continue;
    const char *why = state == Byte::RedZone ? ", which belongs to no variable"
                      : state == Byte::InFlight
                          ? ", which an asynchronous copy is still writing: a wait is missing"
                          : ", which an asynchronous copy is still reading: a wait is missing";
    warp.block->grid->report(warp, i, lane,
                             std::string(verb(touch)) + " " + bytesAt(count, space, address) + why);
    return false;
  }
  return true;
}

Place reachShared(Warp &warp, const Instruction &i, unsigned lane, uint64_t offset, unsigned count,
                  Touch touch, bool strong) {
  Block &block = *warp.block;
  Place place;
  if (offset >= block.shared.size() || count > block.shared.size() - offset) {
    block.grid->report(warp, i, lane,
                       std::string(verb(touch)) + " " + bytesAt(count, "shared", offset) +
                           ", past the end of shared memory");
    return place;
  }
  uint8_t *shadow = block.shadow.data() + offset;
  if (!checkState(warp, i, lane, "shared", offset, shadow, count, touch) ||
      !raceShared(warp, i, lane, uint32_t(offset), count, touch != Touch::Read, strong,
                  warp.clocks))
    return place;
  return {block.shared.data() + offset, shadow, Space::Shared, offset};
}

Place reachGlobal(Warp &warp, const Instruction &i, unsigned lane, uint64_t address, unsigned count,
                  Touch touch, bool strong) {
  Grid &grid = *warp.block->grid;
  Place place;
  Allocation *allocation = warp.recent;
  if (!allocation || !allocation->holds(address, count)) {
    allocation = grid.memory.find(address);
    if (!allocation || !allocation->holds(address, count)) {
      grid.report(warp, i, lane,
                  std::string(verb(touch)) + " " + bytesAt(count, "global", address) + ": " +
                      grid.memory.describe(allocation ? address + count - 1 : address));
      return place;
    }
    warp.recent = allocation;
  }
  uint64_t offset = address - allocation->base;
  uint8_t *shadow = allocation->shadow.get() + offset;
  if (!allWritten(shadow, count) || touch != Touch::Read)
    if (!checkState(warp, i, lane, "global", address, shadow, count, touch))
      return place;
  if (grid.options.races && !i.opcode.has(Mod::Nc) &&
      !eachWord(offset, count, [&](uint64_t at, unsigned mask) {
        return raceWord(warp, i, lane, allocation->races.at(at), allocation->base + at, mask,
                        touch != Touch::Read, strong, warp.clocks, "global");
      }))
    return place;
  return {allocation->data.get() + offset, shadow, Space::Global, address};
}

} // namespace

bool raceShared(Warp &warp, const Instruction &i, unsigned lane, uint32_t offset, unsigned count,
                bool writes, bool strong, const Clocks &clocks) {
  Block &block = *warp.block;
  if (!block.grid->options.races)
    return true;
  return eachWord(offset, count, [&](uint64_t at, unsigned mask) {
    return raceWord(warp, i, lane, block.races[at / 4], at, mask, writes, strong, clocks, "shared");
  });
}

Place reach(Warp &warp, const Instruction &i, unsigned lane, Space space, uint64_t address,
            unsigned count, Touch touch, bool strong) {
  Grid &grid = *warp.block->grid;
  Place place;
  if (address & (count - 1)) {
    grid.report(warp, i, lane,
                std::string(verb(touch)) + " " + std::to_string(count) + " bytes at " +
                    hexText(address) + ", which is not aligned to them");
    return place;
  }
  uint64_t window = address & ~(kSharedWindow - 1);
  if (space == Space::Generic) {
    space = window == kSharedWindow  ? Space::Shared
            : window == kLocalWindow ? Space::Local
            : window == kParamWindow ? Space::Param
                                     : Space::Global;
    if (space != Space::Global)
      address -= window;
  } else if (space == Space::Shared && window == kSharedWindow &&
             i.opcode.has(Mod::SharedCluster)) {
    address -= window;
  }
  switch (space) {
  case Space::Shared:
    return reachShared(warp, i, lane, address, count, touch, strong);
  case Space::Local: {
    uint64_t bytes = grid.entry.localBytes;
    if (address >= bytes || count > bytes - address) {
      grid.report(warp, i, lane,
                  std::string(verb(touch)) + " " + bytesAt(count, "local", address) + " of " +
                      std::to_string(bytes));
      return place;
    }
    return {warp.local.data() + lane * bytes + address, nullptr, Space::Local, address};
  }
  case Space::Param: {
    uint64_t bytes = grid.launch.params.size();
    if (touch != Touch::Read || address >= bytes || count > bytes - address) {
      grid.report(warp, i, lane,
                  std::string(verb(touch)) + " " + bytesAt(count, "param", address) + " of " +
                      std::to_string(bytes) + " that may be read");
      return place;
    }
    auto *data = reinterpret_cast<const uint8_t *>(grid.launch.params.data()) + address;
    return {const_cast<uint8_t *>(data), nullptr, Space::Param, address};
  }
  default:
    return reachGlobal(warp, i, lane, address, count, touch, strong);
  }
}

void synchronise(Warp &warp, const Opcode &code, const Place &place, bool reads, bool writes) {
  Grid &grid = *warp.block->grid;
  if (!grid.options.races || (place.space != Space::Global && place.space != Space::Shared))
    return;
  Clocks *known = nullptr;
  auto look = [&](auto &map, auto key, bool add) {
    auto found = map.find(key);
    if (found == map.end() && add)
      found = map.emplace(key, Clocks{warp.block->index, {}, {}}).first;
    known = found == map.end() ? nullptr : &found->second;
  };
  // A relaxed store publishes what the last fence saw.
  bool publishes = writes && (releases(code) || warp.released);
  if (place.space == Space::Global)
    look(grid.published, place.offset, publishes);
  else
    look(warp.block->published, uint32_t(place.offset), publishes);
  if (!known)
    return;
  if (reads) {
    if (acquires(code)) {
      warp.clocks.join(*known);
    } else {
      if (!warp.acquired)
        warp.acquired = std::make_unique<Clocks>(*known);
      warp.acquired->join(*known);
    }
  }
  if (publishes) {
    known->join(releases(code) ? warp.clocks : *warp.released);
    ++warp.clocks.own[warp.index];
  }
}

void countAccess(Warp &warp, Space space, const uint64_t *addresses, uint32_t lanes, unsigned bytes,
                 bool writes) {
  Stats &stats = warp.block->grid->stats;
  if (space == Space::Global) {
    std::array<uint64_t, kLanes> sectors;
    unsigned count = 0;
    uint64_t last = ~uint64_t(0);
    for (unsigned lane = 0; lane < kLanes; ++lane)
      if (lanes >> lane & 1 && addresses[lane] / 32 != last)
        sectors[count++] = last = addresses[lane] / 32;
    std::sort(sectors.begin(), sectors.begin() + count);
    count = unsigned(std::unique(sectors.begin(), sectors.begin() + count) - sectors.begin());
    ++(writes ? stats.globalStores : stats.globalLoads);
    stats.globalSectors += count;
    stats.globalBytes += uint64_t(bytes) * unsigned(__builtin_popcount(lanes));
    return;
  }
  ++stats.sharedAccesses;
  // 32 banks of 4 bytes: wide accesses take a pass per half or quarter of the warp.
  unsigned group = bytes <= 4 ? 32 : bytes <= 8 ? 16 : 8;
  for (unsigned first = 0; first < kLanes; first += group) {
    std::array<uint64_t, kLanes> words;
    unsigned count = 0;
    for (unsigned lane = first; lane < first + group; ++lane)
      for (unsigned n = 0; lanes >> lane & 1 && n < std::max(1u, bytes / 4) && count < kLanes; ++n)
        words[count++] = addresses[lane] / 4 + n;
    std::sort(words.begin(), words.begin() + count);
    count = unsigned(std::unique(words.begin(), words.begin() + count) - words.begin());
    std::array<uint8_t, 32> banks{};
    uint8_t passes = 0;
    for (unsigned n = 0; n < count; ++n)
      passes = std::max(passes, ++banks[words[n] % 32]);
    stats.sharedConflicts += passes > 1 ? passes - 1u : 0;
  }
}

} // namespace moe::ptxsim
