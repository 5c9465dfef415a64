// A thread that works off calls, one after the other, at a low priority: neither sockets nor the
// model should wait for it.
#ifndef MOE_RUNTIME_SERVER_API_WORKER_H
#define MOE_RUNTIME_SERVER_API_WORKER_H

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace moe::server::api {

class Worker {
public:
  Worker() : thread([this] { run(); }) {}
  ~Worker();                            // ends the call that runs, and drops those that wait
  void add(std::function<void()> call); // from any thread
  size_t waiting() const;               // calls that are not begun

private:
  void run();

  mutable std::mutex mutex;
  std::condition_variable woken;
  std::deque<std::function<void()>> calls;
  bool ends = false;
  std::thread thread; // last: it uses the others
};

} // namespace moe::server::api

#endif
