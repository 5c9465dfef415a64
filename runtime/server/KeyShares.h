// What each key has had of the engine, so that none takes what others wait for.
#ifndef MOE_RUNTIME_SERVER_KEYSHARES_H
#define MOE_RUNTIME_SERVER_KEYSHARES_H

#include "runtime/server/Scheduler.h"

#include <map>
#include <string>

namespace moe::server {

// Virtual token counters: a key that comes back, or is new, starts where the key that has had least
// of those with requests stands, so that it cannot save up what it did not use.
class KeyShares {
public:
  // A request of `key` has come; its share, for as long as the request is there. The empty key
  // stands for nobody: no limit counts for it.
  size_t enter(const std::string &key);
  void leave(size_t share);

  void charge(size_t share, double tokens) { shares[share].served += tokens; }
  // Requests of the key that run.
  void addRunning(size_t share, int32_t change) { shares[share].running += change; }

  std::span<const Share> all() const { return shares; }

private:
  static constexpr size_t kKept = 1024; // keys without requests that are remembered
  struct Entry {
    std::string key;
    int64_t requests = 0;
  };
  std::vector<Share> shares;
  std::vector<Entry> entries; // of the shares
  std::map<std::string, size_t> byKey;
};

} // namespace moe::server

#endif
