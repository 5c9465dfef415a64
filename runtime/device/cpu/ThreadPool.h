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

// Worker 0 is the thread that calls run(); the others sleep between runs. None is pinned to a
// processor: where another program takes one, the scheduler moves the worker to one that is free.
class ThreadPool {
public:
  // Returns when *counter is `value`; for KernelAbi.h. It spins, yields, then
  // sleeps.
  static void awaitCounter(const int32_t *counter, int32_t value);

  // workers >= 1. Error: ResourceExhausted if the system does not give the threads.
  static Result<std::unique_ptr<ThreadPool>> create(int workers);
  ~ThreadPool();
  ThreadPool(const ThreadPool &) = delete;
  ThreadPool &operator=(const ThreadPool &) = delete;

  int workers() const { return count; }

  // Calls work(context, worker) once on each of the first `active` workers, from 1 to all, and
  // returns when these have returned; the others sleep on. From one thread at a time.
  using Work = void (*)(void *context, int worker);
  void run(Work work, void *context, int active);
  void run(Work work, void *context) { run(work, context, count); }

  // Called by every active worker, inside run: returns when all have called it. What they wrote
  // before is then seen by all.
  void barrier();

private:
  explicit ThreadPool(int workers) : count(workers) {}
  void start(int workers);
  void workerLoop(int worker);
  void await(const std::atomic<uint32_t> &value, uint32_t old) const;

  const int count;
  int active = 0; // of the run at hand
  std::chrono::nanoseconds spinTime{0};
  std::chrono::nanoseconds yieldTime{0};
  Work work = nullptr;
  void *context = nullptr;
  std::atomic<bool> stopping{false};
  // Each on a cache line of its own: they are written by one and polled by others.
  struct alignas(64) Runs {
    std::atomic<uint32_t> count{0}; // in which the worker takes part
  };
  std::unique_ptr<Runs[]> runs;
  alignas(64) std::atomic<int32_t> arrived{0};
  alignas(64) std::atomic<uint32_t> phase{0};
  std::vector<std::thread> threads;
};

} // namespace moe::cpu

#endif
