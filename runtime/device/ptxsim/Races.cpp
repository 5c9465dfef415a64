// The rules of who is ordered behind whom.
#include "runtime/device/ptxsim/Races.h"

#include "runtime/device/ptxsim/Isa.h"

#include <algorithm>

namespace moe::ptxsim {

static bool covers(const std::vector<uint32_t> &known, const std::vector<uint32_t> &other) {
  if (known.size() < other.size())
    return false;
  for (size_t i = 0; i < other.size(); ++i)
    if (known[i] < other[i])
      return false;
  return true;
}

static bool covers(const Clocks::Others &known, const Clocks::Others &other) {
  if (known.size() < other.size())
    return false;
  auto at = known.begin();
  for (const auto &[block, clocks] : other) {
    while (at != known.end() && at->first < block)
      ++at;
    if (at == known.end() || at->first != block || !covers(at->second, clocks))
      return false;
  }
  return true;
}

static void raise(std::vector<uint32_t> &to, const std::vector<uint32_t> &from) {
  if (to.size() < from.size())
    to.resize(from.size());
  for (size_t i = 0; i < from.size(); ++i)
    to[i] = std::max(to[i], from[i]);
}

uint32_t Clocks::ofOther(uint32_t ofBlock, uint32_t warp) const {
  if (!others)
    return 0;
  auto found = others->find(ofBlock);
  return found != others->end() && warp < found->second.size() ? found->second[warp] : 0;
}

void Clocks::join(const Clocks &from) {
  std::shared_ptr<Others> fresh;
  auto learn = [&](uint32_t ofBlock, const std::vector<uint32_t> &known) {
    if (ofBlock == block)
      return raise(own, known);
    if (others && !fresh) {
      auto found = others->find(ofBlock);
      if (found != others->end() && covers(found->second, known))
        return;
    }
    if (!fresh)
      fresh = others ? std::make_shared<Others>(*others) : std::make_shared<Others>();
    raise((*fresh)[ofBlock], known);
  };
  if (from.block == block) {
    raise(own, from.own);
    // Warps of a block soon know the same of others, and then share it.
    if (!others || (from.others && others != from.others && covers(*from.others, *others)))
      others = from.others;
  } else {
    learn(from.block, from.own);
  }
  if (from.others && from.others != others)
    for (const auto &[ofBlock, known] : *from.others)
      learn(ofBlock, known);
  if (fresh)
    others = std::move(fresh);
}

bool Segments::orderedSet(uint32_t set, const Clocks &clocks, uint32_t warp) const {
  for (uint32_t member : sets[set])
    if (!ordered(member, clocks, warp))
      return false;
  return true;
}

uint32_t Segments::culprit(uint32_t segment, const Clocks &clocks, uint32_t warp) const {
  if (at(segment).set != none)
    for (uint32_t member : sets[at(segment).set])
      if (!ordered(member, clocks, warp))
        return member;
  return segment;
}

uint32_t Segments::join(uint32_t old, uint32_t segment, const Clocks &clocks) {
  const uint64_t pair = uint64_t(old) << 32 | segment;
  if (pair == lastJoined.first)
    return lastJoined.second;
  auto [place, isNew] = joined.try_emplace(pair, 0);
  if (!isNew) {
    lastJoined = {pair, place->second};
    return place->second;
  }
  uint32_t warp = at(segment).warp;
  std::vector<uint32_t> members;
  if (at(old).set == none)
    members = {old};
  else
    members = sets[at(old).set];
  std::erase_if(members, [&](uint32_t member) { return ordered(member, clocks, warp); });
  if (members.empty())
    return place->second = segment;
  members.push_back(segment);
  std::sort(members.begin(), members.end());
  sets.push_back(std::move(members));
  all.push_back({0, 0, 0, uint32_t(sets.size() - 1)});
  place->second = next() - 1;
  joined.try_emplace(uint64_t(next() - 1) << 32 | segment, next() - 1);
  return next() - 1;
}

namespace {

// Whether BEFORE and mine could have happened in either order.
bool conflicts(const Viewer &viewer, Access before) {
  if (!before.bits)
    return false;
  if (before.segment() < viewer.oldest)
    return viewer.chain && before.segment() >= viewer.chain;
  return (before.bytes() & viewer.mine.bytes()) && !(before.strong() && viewer.mine.strong()) &&
         !viewer.segments.ordered(before.segment(), viewer.clocks, viewer.warp);
}

// What a word remembers of its readers when I have read it too.
Access mergeReader(const Viewer &viewer, Access before) {
  Access mine = viewer.mine;
  if (!before.bits || before.segment() < viewer.oldest)
    return mine;
  if (before.segment() == mine.segment())
    return before.strong() == mine.strong() ? before.with(mine.bytes())
           : before.strong()                ? mine
                                            : before;
  if (viewer.segments.ordered(before.segment(), viewer.clocks, viewer.warp))
    return mine;
  // Only readers of the same bytes can share a set; else the newest is remembered, and of a strong
  // and a weak one the weak.
  if (before.strong() != mine.strong())
    return before.strong() ? mine : before;
  if (before.bytes() != mine.bytes())
    return mine;
  uint32_t set = viewer.segments.join(before.segment(), mine.segment(), viewer.clocks);
  return {(mine.bits & ~uint64_t(0xffffffff)) | set};
}

MOE_PTXSIM_INLINE bool compareAll(const Access *words, size_t count) {
  uint64_t different = 0;
  for (size_t k = 1; k < count; ++k)
    different |= words[k].bits ^ words[0].bits;
  return !different;
}

// Whether all words remember the same.
bool same(const Access *words, size_t count) {
  if (count <= 8)
    return compareAll(words, count);
  static const auto best = versions<&compareAll>();
  return best(words, count);
}

} // namespace

Access recordReads(const Viewer &viewer, const Access *writers, Access *readers, size_t count) {
  Access fine{};
  if (writers && !(same(writers, count) && !conflicts(viewer, writers[0])))
    for (size_t k = 0; k < count; ++k)
      if (writers[k].bits != fine.bits) {
        if (conflicts(viewer, writers[k]))
          return writers[k];
        fine = writers[k];
      }
  if (same(readers, count)) {
    Access merged = mergeReader(viewer, readers[0]);
    if (merged.bits != readers[0].bits)
      std::fill_n(readers, count, merged);
    return {};
  }
  Access from = readers[0], to = mergeReader(viewer, from);
  for (size_t k = 0; k < count; ++k) {
    if (readers[k].bits != from.bits) {
      from = readers[k];
      to = mergeReader(viewer, from);
    }
    readers[k] = to;
  }
  return {};
}

Access recordWrites(const Viewer &viewer, Access *writers, Access *readers, size_t count) {
  for (Access *words : {writers, readers}) {
    if (!words || (same(words, count) && !conflicts(viewer, words[0])))
      continue;
    Access fine{};
    for (size_t k = 0; k < count; ++k)
      if (words[k].bits != fine.bits) {
        if (conflicts(viewer, words[k]))
          return words[k];
        fine = words[k];
      }
  }
  if (viewer.mine.bytes() == 15) {
    std::fill_n(writers, count, viewer.mine);
    if (readers)
      std::fill_n(readers, count, Access{});
    return {};
  }
  // Bytes that this access leaves alone keep their history if it is of the same segment.
  for (size_t k = 0; k < count; ++k)
    writers[k] =
        writers[k].segment() == viewer.mine.segment() && writers[k].strong() == viewer.mine.strong()
            ? viewer.mine.with(writers[k].bytes())
            : viewer.mine;
  return {};
}

Access *AccessPages::make(Pages &pages, uint64_t word) {
  uint64_t page = word / pageWords;
  if (page >= pages.size())
    pages.resize(page + 1);
  if (!pages[page])
    pages[page] = std::make_unique<Access[]>(pageWords);
  return &pages[page][word % pageWords];
}

} // namespace moe::ptxsim
