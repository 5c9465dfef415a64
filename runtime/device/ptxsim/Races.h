// Data races by vector clocks, one clock per warp (FastTrack: Flanagan and Freund, PLDI 2009).
//
// Each warp counts its releases. An access carries the count of its warp; a later access of another
// warp is ordered behind it when that warp has since learned of a higher count, through a barrier,
// an mbarrier, or a release and an acquire.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_RACES_H
#define MOE_RUNTIME_DEVICE_PTXSIM_RACES_H

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace moe::ptxsim {

// What a warp knows of all others: of its own block densely, of others when it learned something.
struct Clocks {
  uint32_t block = 0;
  std::vector<uint32_t> own;
  std::map<uint32_t, std::vector<uint32_t>> others;

  uint32_t of(uint32_t ofBlock, uint32_t warp) const;
  void join(const Clocks &);
};

struct Epoch {
  uint32_t clock = 0; // 0: no access yet
  uint32_t block = 0;
  uint16_t warp = 0;
  uint8_t lane = 0;
  uint8_t mask : 4 = 0;   // bytes of the word
  uint8_t strong : 1 = 0; // atomic, volatile, or ordered: these do not race among themselves
  uint8_t async : 1 = 0;  // by an asynchronous copy
  uint32_t line = 0;
  uint32_t stamp = 0; // of the instruction within its warp
};

// What is remembered of four bytes.
struct RaceWord {
  Epoch write, read;
  uint32_t launch = 0;
  std::unique_ptr<std::vector<Epoch>> readers; // other unordered readers
};

struct RacePages {
  static constexpr uint64_t pageWords = 1024;
  std::vector<std::unique_ptr<RaceWord[]>> pages;

  RaceWord &at(uint64_t offset) {
    uint64_t word = offset / 4, page = word / pageWords;
    if (page >= pages.size())
      pages.resize(page + 1);
    if (!pages[page])
      pages[page] = std::make_unique<RaceWord[]>(pageWords);
    return pages[page][word % pageWords];
  }
};

// Records ACCESS to WORD, by a warp that knows CLOCKS. The conflicting earlier access, or null.
const Epoch *recordAccess(RaceWord &word, const Epoch &access, bool writes, const Clocks &clocks);

} // namespace moe::ptxsim

#endif
