#include "runtime/server/api/FairQueue.h"

#include <algorithm>
#include <cassert>
#include <tuple>

namespace moe::server::api {

void FairQueue::add(std::string key, Call call) {
  Entry &entry = keys[std::move(key)];
  if (entry.calls.empty())
    entry.had = std::max(entry.had, now);
  entry.calls.emplace_back(arrivals++, std::move(call));
  ++total;
}

size_t FairQueue::waiting(const std::string &key) const {
  const auto found = keys.find(key);
  return found == keys.end() ? 0 : found->second.calls.size();
}

FairQueue::Work FairQueue::take() {
  assert(!empty());
  const auto rank = [](const auto &each) {
    const Entry &entry = each.second;
    return entry.calls.empty() ? std::tuple(true, 0.0, uint64_t(0))
                               : std::tuple(false, entry.had, entry.calls.front().first);
  };
  const auto next = std::min_element(
      keys.begin(), keys.end(), [&](const auto &a, const auto &b) { return rank(a) < rank(b); });
  now = std::max(now, next->second.had);
  Work work{next->first, std::move(next->second.calls.front().second)};
  next->second.calls.pop_front();
  --total;
  return work;
}

void FairQueue::charge(const std::string &key, double seconds) {
  Entry &entry = keys[key];
  entry.had = std::max(entry.had, now) + seconds;
  forget();
}

// Keys without work that a new one is no worse than. Where nothing waits all begin anew.
void FairQueue::forget() {
  if (empty())
    keys.clear();
  else
    std::erase_if(keys, [&](const auto &each) {
      return each.second.calls.empty() && each.second.had <= now;
    });
}

} // namespace moe::server::api
