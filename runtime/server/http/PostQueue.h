// Calls that any thread leaves for the server's.
#ifndef MOE_RUNTIME_SERVER_HTTP_POSTQUEUE_H
#define MOE_RUNTIME_SERVER_HTTP_POSTQUEUE_H

#include <functional>
#include <mutex>
#include <utility>
#include <vector>

namespace moe::server::http {

class PostQueue {
public:
  // `wake` is called on a posting thread, when the first of a number of calls comes, and leads to a
  // `take` on the server's.
  explicit PostQueue(std::function<void()> wake) : wake(std::move(wake)) {}

  void post(std::function<void()> call) {
    const std::lock_guard lock(mutex);
    if (closed)
      return;
    calls.push_back(std::move(call));
    if (calls.size() == 1)
      wake();
  }

  std::vector<std::function<void()>> take() {
    const std::lock_guard lock(mutex);
    return std::exchange(calls, {});
  }

  // No call is taken and nobody woken from here on. Gives back, to be destroyed without the lock,
  // what nobody will call.
  std::vector<std::function<void()>> close() {
    const std::lock_guard lock(mutex);
    closed = true;
    return std::exchange(calls, {});
  }

private:
  std::mutex mutex;
  std::vector<std::function<void()>> calls;
  std::function<void()> wake;
  bool closed = false;
};

} // namespace moe::server::http

#endif
