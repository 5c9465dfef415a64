// Shares stay in their places; one that is forgotten is used again for another key.
#include "runtime/server/KeyShares.h"

#include <algorithm>
#include <cassert>

namespace moe::server {

size_t KeyShares::enter(const std::string &key) {
  std::optional<double> least; // of the keys that have requests
  std::optional<size_t> idle;  // the one without that has had least
  size_t idles = 0;
  for (size_t i = 0; i < shares.size(); ++i)
    if (entries[i].requests > 0) {
      least = std::min(least.value_or(shares[i].served), shares[i].served);
    } else {
      ++idles;
      if (!idle || shares[i].served < shares[*idle].served)
        idle = i;
    }

  auto found = byKey.find(key);
  if (found == byKey.end()) {
    size_t place = shares.size();
    if (idles >= kKept) {
      place = *idle;
      byKey.erase(entries[place].key);
    } else {
      shares.emplace_back();
      entries.emplace_back();
    }
    shares[place] = {.limited = !key.empty()};
    entries[place] = {key};
    found = byKey.emplace(key, place).first;
  }
  const size_t share = found->second;
  if (entries[share].requests++ == 0 && least)
    shares[share].served = std::max(shares[share].served, *least);
  return share;
}

void KeyShares::leave(size_t share) {
  assert(entries[share].requests > 0);
  --entries[share].requests;
}

} // namespace moe::server
