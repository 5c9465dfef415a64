// Data races by vector clocks, one clock per warp (FastTrack: Flanagan and Freund, PLDI 2009).
//
// Each warp counts its releases; between two of them lies a segment. Every word of memory remembers
// the segment that wrote it last and those that have read it since. A later access is ordered
// behind them when its warp has learned of the end of those segments, through a barrier, an
// mbarrier, or a release and an acquire.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_RACES_H
#define MOE_RUNTIME_DEVICE_PTXSIM_RACES_H

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

namespace moe::ptxsim {

// What a warp knows of all others: of its own block densely, of others when it learned something.
struct Clocks {
  using Others = std::map<uint32_t, std::vector<uint32_t>>;
  uint32_t block = 0;
  std::vector<uint32_t> own;
  std::shared_ptr<const Others> others; // shared, since copies are made at every barrier

  uint32_t of(uint32_t ofBlock, uint32_t warp) const {
    if (ofBlock == block)
      return warp < own.size() ? own[warp] : 0;
    return ofOther(ofBlock, warp);
  }
  void join(const Clocks &);

private:
  uint32_t ofOther(uint32_t ofBlock, uint32_t warp) const;
};

// An access, in 64 bits: 0 is none. Bytes are those of its word.
struct Access {
  uint64_t bits = 0;

  static Access of(uint32_t segment, size_t instruction, unsigned bytes, bool strong) {
    return {segment | uint64_t(instruction & 0xfffff) << 32 | uint64_t(bytes) << 52 |
            uint64_t(strong) << 56};
  }
  uint32_t segment() const { return uint32_t(bits); }
  uint32_t instruction() const { return bits >> 32 & 0xfffff; } // an index of its kernel's code
  unsigned bytes() const { return bits >> 52 & 15; }
  bool strong() const { return bits >> 56 & 1; } // these do not race among themselves
  bool async() const { return bits >> 57 & 1; }  // by an asynchronous copy
  Access with(unsigned bytes) const { return {bits | uint64_t(bytes) << 52}; }
  Access asAsync() const { return {bits | uint64_t(1) << 57}; }
};

// The segments of a launch, and sets of them that read the same word, by numbers that go on through
// all launches: those below `first` are of earlier ones.
class Segments {
public:
  struct Segment {
    uint32_t block, clock;
    uint32_t warp;
    uint32_t set; // of several: its place in `sets`, else none
  };
  static constexpr uint32_t none = ~0u;

  explicit Segments(uint32_t first) : first(first) {}
  uint32_t next() const { return first + uint32_t(all.size()); }
  uint32_t add(uint32_t block, uint32_t warp, uint32_t clock) {
    all.push_back({block, clock, warp, none});
    return next() - 1;
  }
  const Segment &at(uint32_t segment) const { return all[segment - first]; }
  // Whether SEGMENT, or all of a set, has ended as far as CLOCKS know, or is of that very warp.
  bool ordered(uint32_t segment, const Clocks &clocks, uint32_t warp) const {
    const Segment &s = at(segment);
    return s.set == none ? (s.block == clocks.block && s.warp == warp) ||
                               clocks.of(s.block, s.warp) >= s.clock
                         : orderedSet(s.set, clocks, warp);
  }
  // One of a set that is not ordered.
  uint32_t culprit(uint32_t segment, const Clocks &, uint32_t warp) const;
  // The set of OLD and SEGMENT, without what is ordered before SEGMENT's warp.
  uint32_t join(uint32_t old, uint32_t segment, const Clocks &);

  const uint32_t first;

private:
  bool orderedSet(uint32_t set, const Clocks &, uint32_t warp) const;

  std::vector<Segment> all;
  std::vector<std::vector<uint32_t>> sets;
  std::unordered_map<uint64_t, uint32_t> joined;
  std::pair<uint64_t, uint32_t> lastJoined{0, 0}; // of `joined`: neighbours are mostly the same
};

// Who accesses memory.
struct Viewer {
  Segments &segments;
  const Clocks &clocks;
  uint32_t warp;
  uint32_t oldest; // what happened in segments before this one counts as long ago,
  uint32_t chain;  // unless it happened since this one, in a kernel that nobody has waited for
  Access mine;
};

// Check and record an access to COUNT words, whole ones unless COUNT is 1. The access that is in
// conflict with it, or none. WRITERS and READERS are what the words remember.
Access recordReads(const Viewer &, const Access *writers, Access *readers, size_t count);
Access recordWrites(const Viewer &, Access *writers, Access *readers, size_t count);

// What the words of an allocation remember, in pages made when they are first accessed.
struct AccessPages {
  static constexpr uint64_t pageWords = 1024;
  using Pages = std::vector<std::unique_ptr<Access[]>>;
  Pages writers, readers;

  static Access *find(const Pages &pages, uint64_t word) {
    uint64_t page = word / pageWords;
    return page < pages.size() && pages[page] ? &pages[page][word % pageWords] : nullptr;
  }
  static Access *make(Pages &pages, uint64_t word);
};

} // namespace moe::ptxsim

#endif
