// Work of many keys, in an order that is fair in time: a key whose work takes long waits for those
// whose work is short, and never they for all of its own.
#ifndef MOE_RUNTIME_SERVER_API_FAIRQUEUE_H
#define MOE_RUNTIME_SERVER_API_FAIRQUEUE_H

#include <deque>
#include <functional>
#include <map>
#include <string>

namespace moe::server::api {

// Start-time fair queueing (Goyal, Vin, Cheng 1996): a key has had as much time as its work has
// taken; the next work is of the key that has had least, the earliest first where several have. Who
// comes anew starts where the work at hand did, so that no key can save up what it did not use.
// With one key it is a plain queue. For one thread at a time.
class FairQueue {
public:
  using Call = std::function<void()>;
  struct Work {
    std::string key;
    Call call;
  };

  void add(std::string key, Call call);
  bool empty() const { return total == 0; }
  size_t waiting() const { return total; }
  size_t waiting(const std::string &key) const;
  Work take();                                         // of what waits; there must be something
  void charge(const std::string &key, double seconds); // that work of the key has taken

private:
  struct Entry {
    double had = 0;
    std::deque<std::pair<uint64_t, Call>> calls; // by their arrival
  };
  void forget();

  std::map<std::string, Entry> keys; // with work, or that have had more than a new one starts with
  double now = 0;                    // what a key starts with
  uint64_t arrivals = 0;
  size_t total = 0;
};

} // namespace moe::server::api

#endif
