#include "runtime/server/api/Worker.h"

#include <chrono>
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

void Worker::add(std::string key, std::function<void()> call) {
  {
    const std::lock_guard lock(mutex);
    calls.add(std::move(key), std::move(call));
  }
  woken.notify_one();
}

size_t Worker::waiting(const std::string &key) const {
  const std::lock_guard lock(mutex);
  return calls.waiting(key);
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
    FairQueue::Work work = calls.take();
    lock.unlock();
    const auto began = std::chrono::steady_clock::now();
    work.call();
    work.call = nullptr; // what it holds may take long to destroy
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    lock.lock();
    calls.charge(work.key, took.count());
  }
}

} // namespace moe::server::api
