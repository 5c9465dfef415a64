// A thread that works off calls, one after the other, at a low priority: neither sockets nor the
// model should wait for it. Keys share its time.
#ifndef MOE_RUNTIME_SERVER_API_WORKER_H
#define MOE_RUNTIME_SERVER_API_WORKER_H

#include "runtime/server/api/FairQueue.h"

#include <condition_variable>
#include <mutex>
#include <thread>

namespace moe::server::api {

class Worker {
public:
  Worker() : thread([this] { run(); }) {}
  ~Worker(); // ends the call that runs, and drops those that wait
  void add(std::string key, std::function<void()> call); // from any thread
  size_t waiting(const std::string &key) const;          // calls of the key that are not begun

private:
  void run();

  mutable std::mutex mutex;
  std::condition_variable woken;
  FairQueue calls;
  bool ends = false;
  std::thread thread; // last: it uses the others
};

} // namespace moe::server::api

#endif
