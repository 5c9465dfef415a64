#include "runtime/server/api/Worker.h"

#include <sys/resource.h>

namespace moe::server::api {

Worker::~Worker() {
  {
    const std::lock_guard lock(mutex);
    ends = true;
  }
  woken.notify_one();
  thread.join();
}

void Worker::add(std::function<void()> call) {
  {
    const std::lock_guard lock(mutex);
    calls.push_back(std::move(call));
  }
  woken.notify_one();
}

size_t Worker::waiting() const {
  const std::lock_guard lock(mutex);
  return calls.size();
}

void Worker::run() {
#ifdef __linux__
  ::setpriority(PRIO_PROCESS, 0, 5); // of this thread, on Linux
#endif
  std::unique_lock lock(mutex);
  while (true) {
    woken.wait(lock, [&] { return ends || !calls.empty(); });
    if (ends)
      return;
    {
      const auto call = std::move(calls.front());
      calls.pop_front();
      lock.unlock();
      call();
    }
    lock.lock();
  }
}

} // namespace moe::server::api
