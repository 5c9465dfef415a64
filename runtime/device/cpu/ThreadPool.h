// Threads that run one step program together: each worker runs all of it, with barriers between.
#ifndef MOE_RUNTIME_DEVICE_CPU_THREADPOOL_H
#define MOE_RUNTIME_DEVICE_CPU_THREADPOOL_H

#include "runtime/Status.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace moe::cpu {

// The processors this process may run on, from its affinity mask.
std::vector<int> allowedProcessors();

// How many workers fit: allowedProcessors, or the control group's quota where that is less.
int defaultThreads();

// Worker 0 is the thread that calls run(); the others sleep between runs. Workers are pinned when
// the pool takes all the processors of the affinity mask: a smaller pool would choose the same
// processors as the next process does, so there the scheduler chooses. The caller's own thread is
// never pinned, since the threads it starts later would inherit that.
class ThreadPool {
public:
  // Returns when *counter is `value`; for KernelAbi.h. It spins, then yields.
  static void awaitCounter(const int32_t *counter, int32_t value);

  // workers >= 1. Error: ResourceExhausted if the system does not give the threads.
  static Result<std::unique_ptr<ThreadPool>> create(int workers);
  ~ThreadPool();
  ThreadPool(const ThreadPool &) = delete;
  ThreadPool &operator=(const ThreadPool &) = delete;

  int workers() const { return count; }

  // Calls work(context, worker) once on each worker and returns when all have returned. From one
  // thread at a time.
  using Work = void (*)(void *context, int worker);
  void run(Work work, void *context);

  // Called by every worker, inside run: returns when all have called it. What they wrote before is
  // then seen by all.
  void barrier();

private:
  explicit ThreadPool(int workers) : count(workers) {}
  void workerLoop(int worker);
  void await(const std::atomic<uint32_t> &value, uint32_t old) const;

  const int count;
  std::chrono::nanoseconds spinTime{0};
  std::chrono::nanoseconds yieldTime{0};
  Work work = nullptr;
  void *context = nullptr;
  std::atomic<bool> stopping{false};
  // Each on a cache line of its own: they are written by one and polled by all.
  alignas(64) std::atomic<uint32_t> runs{0};
  alignas(64) std::atomic<int32_t> arrived{0};
  alignas(64) std::atomic<uint32_t> phase{0};
  std::vector<std::thread> threads;
};

} // namespace moe::cpu

#endif
