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
Scope scopeOf(const Opcode &code) {
  return code.has(Mod::Cta) ? OfBlock : code.has(Mod::Cluster) ? OfCluster : OfGrid;
}

Block *ownerOf(Warp &warp, const Instruction &i, uint64_t &address) {
  Space space = i.opcode.space();
  bool near = space == Space::Shared && !i.opcode.has(Mod::SharedCluster);
  uint64_t rank = address >> kRankShift;
  if (!rank)
    return warp.block;
  const auto &blocks = warp.block->cluster->blocks;
  if (near || rank > blocks.size())
    return nullptr;
  address &= (uint64_t(1) << kRankShift) - 1;
  return blocks[size_t(rank - 1)];
}

bool visit(Warp &warp, const Instruction &i, unsigned lane, Block &owner) {
  if (&owner == warp.block || !warp.block->grid->options.races)
    return true;
  if (owner.done()) {
    warp.block->grid->report(warp, i, lane,
                             "touches shared memory of block " + std::to_string(owner.index) +
                                 ", which has ended: a barrier of the cluster is missing");
    return false;
  }
  owner.visits[&warp] = {warp.clocks.own[warp.index], i.line};
  return true;
}

bool allWritten(const uint8_t *shadow, size_t count) {
  uint64_t all = 0x0101010101010101;
  size_t at = 0;
  for (; at + 8 <= count; at += 8) {
    uint64_t eight;
    std::memcpy(&eight, shadow + at, 8);
    all &= eight; // Written or Lent
  }
  uint8_t rest = 1;
  for (; at < count; ++at)
    rest &= shadow[at];
  return all == 0x0101010101010101 && rest;
}

void markBytes(uint8_t *shadow, size_t count, Byte state) {
  std::memset(shadow, int(state), count);
}

void copyWritten(uint8_t *to, const uint8_t *from, size_t count) {
  if (allWritten(from, count))
    return markBytes(to, count, Byte::Written);
  for (size_t n = 0; n < count; ++n)
    to[n] = from[n] & 1;
}

std::optional<uint32_t> sharedOffset(Space space, uint64_t address) {
  if (space == Space::Generic)
    address -= kSharedWindow;
  return address < kWindowBytes ? std::optional(uint32_t(address)) : std::nullopt;
}

Allocation *findAllocation(Warp &warp, uint64_t address, uint64_t count) {
  Allocation *allocation = warp.recent;
  if (!allocation || !allocation->holds(address, count)) {
    allocation = warp.block->grid->memory.find(address);
    if (!allocation || !allocation->holds(address, count))
      return nullptr;
    warp.recent = allocation;
  }
  allocation->supply(address - allocation->base, count);
  return allocation;
}

namespace {

const char *verb(Touch touch) {
  return touch == Touch::Read ? "reads" : touch == Touch::Write ? "writes" : "updates";
}

std::string bytesAt(unsigned count, const char *space, uint64_t address) {
  return std::to_string(count) + " bytes at " + space + " " + hexText(address);
}

// Nothing but Written and Unwritten bytes.
bool atRest(const uint8_t *shadow, size_t count) {
  uint64_t any = 0;
  size_t at = 0;
  for (; at + 8 <= count; at += 8) {
    uint64_t eight;
    std::memcpy(&eight, shadow + at, 8);
    any |= eight;
  }
  for (; at < count; ++at)
    any |= shadow[at];
  return !(any & ~uint64_t(0x0101010101010101));
}

// The place of shared bytes, as their block's offset or another's.
uint64_t placeOf(const Warp &warp, const Block &owner, uint64_t offset) {
  return &owner == warp.block ? offset : uint64_t(owner.rank + 1) << kRankShift | offset;
}

Viewer viewerOf(Warp &warp, const Instruction &i, bool global, bool strong) {
  Grid &grid = *warp.block->grid;
  uint32_t segment = segmentOf(warp);
  uint32_t chain = global && !warp.dependenciesMet ? grid.launch.chain : 0;
  if (chain)
    for (const auto &[waiter, clock] : warp.block->waited)
      if (warp.clocks.of(warp.block->index, waiter) >= clock) {
        warp.dependenciesMet = true;
        chain = 0;
      }
  return {grid.segments, warp.clocks,
          warp.index,    global ? grid.segments.first : warp.block->firstSegment,
          chain,         Access::of(segment, size_t(&i - grid.entry.code.data()), 15, strong)};
}

// The words of an allocation at an offset, piece by piece of a page. EACH: its writers or null, its
// readers, and how many; false ends.
template <class F>
bool eachPiece(Allocation &allocation, uint64_t offset, uint64_t bytes, bool writes, F each) {
  for (uint64_t word = offset / 4, end = (offset + bytes + 3) / 4; word < end;) {
    uint64_t count = std::min(end - word, AccessPages::pageWords - word % AccessPages::pageWords);
    AccessPages &pages = allocation.accesses;
    Access *writers =
        writes ? AccessPages::make(pages.writers, word) : AccessPages::find(pages.writers, word);
    Access *readers =
        writes ? AccessPages::find(pages.readers, word) : AccessPages::make(pages.readers, word);
    if (!each(writers, readers, size_t(count)))
      return false;
    word += count;
  }
  return true;
}

// Records an access to whole words; false if anything is wrong with it.
bool recordGlobal(const Viewer &viewer, const Instruction &i, Allocation &allocation,
                  uint64_t offset, uint64_t bytes, bool writes) {
  allocation.written |= writes;
  if (!allocation.written)
    return true;
  bool constant = i.opcode.has(Mod::Nc);
  return eachPiece(allocation, offset, bytes, writes,
                   [&](Access *writers, Access *readers, size_t count) {
                     if (constant && writers)
                       for (size_t k = 0; k < count; ++k)
                         if (writers[k].segment() >= viewer.oldest)
                           return false;
                     return !(writes ? recordWrites(viewer, writers, readers, count)
                                     : recordReads(viewer, writers, readers, count))
                                 .bits;
                   });
}

[[gnu::noinline]] void reportRace(Warp &warp, const Instruction &i, unsigned lane,
                                  const Viewer &viewer, Access before, bool wrote, bool writes,
                                  const char *space, uint64_t address) {
  Grid &grid = *warp.block->grid;
  std::string what = std::string(writes ? "writes " : "reads ") + space + " " + hexText(address);
  if (before.segment() < viewer.oldest)
    return grid.report(warp, i, lane,
                       what + ", which a kernel before this one " + (wrote ? "wrote" : "read") +
                           ", before griddepcontrol.wait");
  uint32_t segment = grid.segments.culprit(before.segment(), viewer.clocks, viewer.warp);
  const Segments::Segment &other = grid.segments.at(segment);
  what += ", which block " + std::to_string(other.block) + " warp " + std::to_string(other.warp) +
          (wrote ? " wrote" : " read");
  if (segment == before.segment())
    what += " at line " + std::to_string(grid.entry.code[before.instruction()].line);
  grid.report(warp, i, lane, "race: " + what + " with nothing in between that orders them");
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
  if (atRest(shadow, count))
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

Place reachShared(Warp &warp, const Instruction &i, unsigned lane, uint64_t address, unsigned count,
                  Touch touch, bool strong) {
  Grid &grid = *warp.block->grid;
  Place place;
  uint64_t offset = address;
  Block *owner = ownerOf(warp, i, offset);
  if (!owner || offset >= owner->shared.size() || count > owner->shared.size() - offset) {
    bool other = address >> kRankShift && address < kWindowBytes;
    grid.report(warp, i, lane,
                std::string(verb(touch)) + " " + bytesAt(count, "shared", address) +
                    (owner   ? ", past the end of shared memory"
                     : other ? ", which is of another block: only shared::cluster and generic "
                               "addresses reach those of the cluster"
                             : ", past the end of shared memory"));
    return place;
  }
  uint8_t *shadow = owner->shadow.data() + offset;
  if (!visit(warp, i, lane, *owner) ||
      !checkState(warp, i, lane, "shared", address, shadow, count, touch) ||
      !raceShared(warp, i, lane, *owner, uint32_t(offset), count, touch != Touch::Read, strong))
    return place;
  return {owner->shared.data() + offset, shadow, Space::Shared, placeOf(warp, *owner, offset)};
}

bool raceGlobal(Warp &warp, const Instruction &i, unsigned lane, Allocation &allocation,
                uint64_t offset, unsigned count, bool writes, bool strong) {
  allocation.written |= writes;
  if (!allocation.written)
    return true;
  Viewer viewer = viewerOf(warp, i, true, strong);
  bool constant = i.opcode.has(Mod::Nc);
  return eachWord(offset, count, [&](uint64_t at, unsigned mask) {
    viewer.mine = Access::of(viewer.mine.segment(), viewer.mine.instruction(), mask, strong);
    return eachPiece(allocation, at, 4, writes, [&](Access *writers, Access *readers, size_t) {
      if (constant && writers && writers->segment() >= viewer.oldest) {
        warp.block->grid->report(warp, i, lane,
                                 "reads global " + hexText(allocation.base + at) +
                                     " as constant, but this kernel writes it");
        return false;
      }
      Access writer = writers ? *writers : Access{};
      Access other = writes ? recordWrites(viewer, writers, readers, 1)
                            : recordReads(viewer, writers, readers, 1);
      if (!other.bits)
        return true;
      reportRace(warp, i, lane, viewer, other, other.bits == writer.bits, writes, "global",
                 allocation.base + at);
      return false;
    });
  });
}

Place reachGlobal(Warp &warp, const Instruction &i, unsigned lane, uint64_t address, unsigned count,
                  Touch touch, bool strong) {
  Grid &grid = *warp.block->grid;
  Place place;
  Allocation *allocation = findAllocation(warp, address, count);
  if (!allocation) {
    allocation = grid.memory.find(address);
    grid.report(warp, i, lane,
                std::string(verb(touch)) + " " + bytesAt(count, "global", address) + ": " +
                    grid.memory.describe(allocation ? address + count - 1 : address));
    return place;
  }
  uint64_t offset = address - allocation->base;
  uint8_t *shadow = allocation->shadow.get() + offset;
  if (!allWritten(shadow, count) || touch != Touch::Read)
    if (!checkState(warp, i, lane, "global", address, shadow, count, touch))
      return place;
  if (grid.options.races &&
      !raceGlobal(warp, i, lane, *allocation, offset, count, touch != Touch::Read, strong))
    return place;
  return {allocation->data.get() + offset, shadow, Space::Global, address};
}

Space spaceOf(const Instruction &i, Space space, uint64_t &address) {
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
  return space;
}

// Reaches COUNT bytes if everything about them is right, at word granularity; else says nothing.
// VIEWER: of shared memory or of global memory, as SPACE is.
Place reachQuickly(Warp &warp, const Instruction &i, const Viewer &viewer, Space space,
                   uint64_t address, uint64_t count, Touch touch) {
  Grid &grid = *warp.block->grid;
  bool writes = touch != Touch::Read;
  bool words = !((address | count) & 3) || !grid.options.races;
  if (space == Space::Shared) {
    Block *owner = ownerOf(warp, i, address);
    if (!owner || (owner != warp.block && owner->done()))
      return {};
    Block &block = *owner;
    if (!words || address >= block.shared.size() || count > block.shared.size() - address)
      return {};
    uint8_t *shadow = block.shadow.data() + address;
    if (!(writes ? atRest(shadow, count) : allWritten(shadow, count)))
      return {};
    if (grid.options.races) {
      Access *writers = &block.writers[address / 4], *readers = &block.readers[address / 4];
      if ((writes ? recordWrites(viewer, writers, readers, count / 4)
                  : recordReads(viewer, writers, readers, count / 4))
              .bits)
        return {};
    }
    if (owner != warp.block)
      visit(warp, i, firstLane(warp.active), block);
    return {block.shared.data() + address, shadow, space, placeOf(warp, block, address)};
  }
  if (space == Space::Global || space == Space::Const) {
    Allocation *allocation = words ? findAllocation(warp, address, count) : nullptr;
    if (!allocation)
      return {};
    uint64_t offset = address - allocation->base;
    uint8_t *shadow = allocation->shadow.get() + offset;
    if (!(writes ? atRest(shadow, count) : allWritten(shadow, count)) ||
        (grid.options.races && !recordGlobal(viewer, i, *allocation, offset, count, writes)))
      return {};
    return {allocation->data.get() + offset, shadow, Space::Global, address};
  }
  if (space == Space::Param && !writes && address <= grid.launch.params.size() &&
      count <= grid.launch.params.size() - address) {
    auto *data = reinterpret_cast<const uint8_t *>(grid.launch.params.data()) + address;
    return {const_cast<uint8_t *>(data), nullptr, space, address};
  }
  return {};
}

} // namespace

uint32_t segmentOf(Warp &warp) {
  if (!warp.segment)
    warp.segment =
        warp.block->grid->segments.add(warp.block->index, warp.index, warp.clocks.own[warp.index]);
  return warp.segment;
}

bool raceShared(Warp &warp, const Instruction &i, unsigned lane, Block &block, uint32_t offset,
                uint32_t count, bool writes, bool strong, bool async, uint32_t segment,
                const Clocks &clocks) {
  if (!block.grid->options.races)
    return true;
  Viewer viewer{block.grid->segments, clocks, warp.index, block.firstSegment, 0, {}};
  size_t instruction = size_t(&i - block.grid->entry.code.data());
  auto check = [&](uint64_t at, unsigned mask, size_t words) {
    viewer.mine = Access::of(segment, instruction, mask, strong);
    if (async)
      viewer.mine = viewer.mine.asAsync();
    Access *writers = &block.writers[at / 4], *readers = &block.readers[at / 4], writer = *writers;
    Access other = writes ? recordWrites(viewer, writers, readers, words)
                          : recordReads(viewer, writers, readers, words);
    if (!other.bits)
      return true;
    bool wrote = other.bits == writer.bits;
    for (size_t k = 0; k < words; ++k)
      if (writers[k].bits == other.bits || readers[k].bits == other.bits) {
        wrote = writers[k].bits == other.bits;
        at += 4 * k;
        break;
      }
    reportRace(warp, i, lane, viewer, other, wrote, writes, "shared", placeOf(warp, block, at));
    return false;
  };
  if (!((offset | count) & 3))
    return check(offset, 15, count / 4);
  return eachWord(offset, count, [&](uint64_t at, unsigned mask) { return check(at, mask, 1); });
}

bool reachAll(Warp &warp, const Instruction &i, Space space, Places &places, unsigned count,
              Touch touch, bool strong) {
  uint32_t active = warp.active;
  auto &address = places.address;
  uint64_t misaligned = 0, scattered = 0;
  if (active == ~0u) {
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      misaligned |= address[lane] & (count - 1);
      scattered |= address[lane] ^ (address[0] + uint64_t(lane) * count);
    }
    if (!(misaligned | scattered)) {
      uint64_t start = address[0];
      Space actual = spaceOf(i, space, start);
      Place place = reachQuickly(warp, i, viewerOf(warp, i, actual != Space::Shared, strong),
                                 actual, start, uint64_t(count) * kLanes, touch);
      if (place.data) {
        for (unsigned lane = 0; lane < kLanes; ++lane) {
          address[lane] = place.offset + uint64_t(lane) * count;
          places.data[lane] = place.data + lane * count;
          places.shadow[lane] = place.shadow ? place.shadow + lane * count : nullptr;
        }
        places.space = place.space;
        places.contiguous = true;
        return true;
      }
    }
  }
  Viewer ofShared = viewerOf(warp, i, false, strong), ofGlobal = viewerOf(warp, i, true, strong);
  // Runs of lanes whose bytes follow each other, or are the same, which only reads may be.
  for (unsigned lane = 0; lane < kLanes;) {
    if (!(active >> lane & 1)) {
      ++lane;
      continue;
    }
    uint64_t start = address[lane], end = start + count, last = start;
    unsigned past = lane + 1;
    if (!(start & (count - 1)))
      for (; past < kLanes; ++past) {
        if (!(active >> past & 1))
          continue;
        if (address[past] == end)
          end += count;
        else if (touch != Touch::Read || address[past] != last)
          break;
        last = address[past];
      }
    uint64_t in = start;
    Space actual = spaceOf(i, space, in);
    Place run;
    if (!(start & (count - 1)))
      run = reachQuickly(warp, i, actual == Space::Shared ? ofShared : ofGlobal, actual, in,
                         end - start, touch);
    if (run.data) { // lanes that are not active get the first one's place, which nobody looks at
      for (; lane < past; ++lane) {
        uint64_t ahead = active >> lane & 1 ? address[lane] - start : 0;
        places.data[lane] = run.data + ahead;
        places.shadow[lane] = run.shadow ? run.shadow + ahead : nullptr;
        address[lane] = run.offset + ahead;
      }
      places.space = run.space;
      continue;
    }
    for (; lane < past; ++lane) {
      if (!(active >> lane & 1))
        continue;
      Place place = reach(warp, i, lane, space, address[lane], count, touch, strong);
      if (!place.data)
        return false;
      places.written &= !place.shadow || allWritten(place.shadow, count);
      places.data[lane] = place.data;
      places.shadow[lane] = place.shadow;
      places.space = place.space;
      address[lane] = place.offset;
    }
  }
  return true;
}

Place reachRange(Warp &warp, const Instruction &i, unsigned lane, Space space, uint64_t address,
                 uint32_t bytes, Touch touch) {
  if (bytes == 0)
    return {};
  space = spaceOf(i, space, address);
  if (!(address & 15))
    if (Place place = reachQuickly(warp, i, viewerOf(warp, i, space != Space::Shared, false), space,
                                   address, bytes, touch);
        place.data)
      return place;
  Place first;
  for (uint32_t at = 0; at < bytes; at += 16) {
    Place place = reach(warp, i, lane, space, address + at, 16, touch, false);
    if (!place.data)
      return place;
    if (!at)
      first = place;
  }
  return first;
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
  space = spaceOf(i, space, address);
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
  uint64_t key = place.offset;
  if (place.space == Space::Shared && !(key >> kRankShift))
    key |= uint64_t(warp.block->rank + 1) << kRankShift;
  bool published = false;
  auto exchange = [&](std::map<uint64_t, Clocks> &map, Scope scope) {
    // A relaxed store publishes what the last fence saw.
    const Clocks *fenced = warp.released[scope].get();
    auto &acquired = warp.acquired[scope];
    auto known = map.find(key);
    if (known != map.end() && reads) {
      if (acquires(code)) {
        warp.clocks.join(known->second);
      } else {
        if (!acquired)
          acquired = std::make_unique<Clocks>(known->second);
        acquired->join(known->second);
      }
    }
    if (writes && (releases(code) || fenced)) {
      if (known == map.end())
        known = map.emplace(key, Clocks{warp.block->index, {}, nullptr}).first;
      known->second.join(releases(code) ? warp.clocks : *fenced);
      published = true;
    }
  };
  // An order of some scope is one of the narrower scopes, too.
  Scope scope = scopeOf(code);
  exchange(warp.block->published, OfBlock);
  if (scope >= OfCluster && warp.block->cluster->blocks.size() > 1)
    exchange(warp.block->cluster->published, OfCluster);
  if (scope >= OfGrid && place.space == Space::Global)
    exchange(grid.published, OfGrid);
  if (published)
    advance(warp);
}

} // namespace moe::ptxsim
