// The rules of who is ordered behind whom.
#include "runtime/device/ptxsim/Races.h"

#include <algorithm>

namespace moe::ptxsim {

static void raise(std::vector<uint32_t> &to, const std::vector<uint32_t> &from) {
  if (to.size() < from.size())
    to.resize(from.size());
  for (size_t i = 0; i < from.size(); ++i)
    to[i] = std::max(to[i], from[i]);
}

uint32_t Clocks::of(uint32_t ofBlock, uint32_t warp) const {
  const std::vector<uint32_t> *known = &own;
  if (ofBlock != block) {
    auto found = others.find(ofBlock);
    if (found == others.end())
      return 0;
    known = &found->second;
  }
  return warp < known->size() ? (*known)[warp] : 0;
}

void Clocks::join(const Clocks &from) {
  raise(from.block == block ? own : others[from.block], from.own);
  for (const auto &[ofBlock, known] : from.others)
    raise(ofBlock == block ? own : others[ofBlock], known);
}

static bool sameWarp(const Epoch &a, const Epoch &b) {
  return a.block == b.block && a.warp == b.warp;
}

static bool conflicts(const Epoch &before, const Epoch &access, const Clocks &clocks) {
  return before.clock && (before.mask & access.mask) && !(before.strong && access.strong) &&
         !sameWarp(before, access) && clocks.of(before.block, before.warp) < before.clock;
}

const Epoch *recordAccess(RaceWord &word, const Epoch &access, bool writes, const Clocks &clocks) {
  static thread_local Epoch conflict;
  auto found = [&](const Epoch &before) {
    conflict = before;
    return &conflict;
  };
  if (conflicts(word.write, access, clocks))
    return found(word.write);
  if (!writes) {
    if (!word.read.clock || sameWarp(word.read, access) ||
        clocks.of(word.read.block, word.read.warp) >= word.read.clock) {
      bool other = word.read.clock && (word.read.mask & ~access.mask);
      if (!other || sameWarp(word.read, access)) {
        uint8_t mask = sameWarp(word.read, access) ? word.read.mask : 0;
        word.read = access;
        word.read.mask |= mask;
        return nullptr;
      }
    }
    if (!word.readers)
      word.readers = std::make_unique<std::vector<Epoch>>();
    for (Epoch &reader : *word.readers)
      if (sameWarp(reader, access)) {
        uint8_t mask = reader.mask;
        reader = access;
        reader.mask |= mask;
        return nullptr;
      }
    word.readers->push_back(access);
    return nullptr;
  }
  if (conflicts(word.read, access, clocks))
    return found(word.read);
  if (word.readers)
    for (const Epoch &reader : *word.readers)
      if (conflicts(reader, access, clocks))
        return found(reader);
  // Bytes that this access leaves alone keep their history, if it is of the same warp.
  uint8_t mask = sameWarp(word.write, access) && word.write.clock == access.clock &&
                         word.write.strong == access.strong
                     ? word.write.mask
                     : 0;
  word.write = access;
  word.write.mask |= mask;
  if (access.mask == 15) {
    word.read = Epoch();
    word.readers.reset();
  }
  return nullptr;
}

} // namespace moe::ptxsim
