// A thread's calls where there is no server: posted from any thread, run by one.
#ifndef MOE_RUNTIME_SERVER_API_CALLQUEUE_H
#define MOE_RUNTIME_SERVER_API_CALLQUEUE_H

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>

namespace moe::server::api {

class CallQueue {
public:
  void post(std::function<void()> call) {
    {
      const std::lock_guard lock(mutex);
      calls.push_back(std::move(call));
    }
    woken.notify_one();
  }

  // Runs the next call, for which it waits until `time` is over. Whether there was one.
  bool runOne(std::chrono::milliseconds time) {
    std::unique_lock lock(mutex);
    if (!woken.wait_for(lock, time, [&] { return !calls.empty(); }))
      return false;
    const auto call = std::move(calls.front());
    calls.pop_front();
    lock.unlock();
    call();
    return true;
  }

private:
  std::mutex mutex;
  std::condition_variable woken;
  std::deque<std::function<void()>> calls;
};

} // namespace moe::server::api

#endif
