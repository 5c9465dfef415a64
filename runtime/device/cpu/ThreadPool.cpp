// A wait spins for a short time (the usual case: the others are about to arrive), then yields (the
// processor is shared, and whoever we wait for may need it), then sleeps.
#include "runtime/device/cpu/ThreadPool.h"

#include "runtime/device/cpu/Processors.h"

#include <sched.h>
#include <system_error>

namespace moe::cpu {
namespace {

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory"); // `yield` does nothing on most cores
#endif
}

} // namespace

Result<std::unique_ptr<ThreadPool>> ThreadPool::create(int workers) {
  if (workers < 1)
    return Error{Code::InvalidArgument,
                 "a thread pool needs at least 1 worker, not " + std::to_string(workers)};
  std::unique_ptr<ThreadPool> pool(new ThreadPool(workers));
  std::vector<int> processors = allowedProcessors();
  using std::chrono::microseconds;
  // With more workers than processors someone we wait for is not running: do not keep its place.
  if (size_t(workers) <= processors.size())
    pool->spinTime = microseconds(20);
  pool->yieldTime = microseconds(200); // longer than choosing a token takes, between two steps

  pool->runs = std::make_unique<Runs[]>(workers);
  pool->threads.reserve(workers - 1);
  for (int worker = 1; worker < workers; ++worker) {
    try {
      pool->threads.emplace_back([p = pool.get(), worker] { p->workerLoop(worker); });
    } catch (const std::system_error &) { // the one way std::thread reports this
      return Error{Code::ResourceExhausted, "the system gave " + std::to_string(worker) + " of " +
                                                std::to_string(workers) +
                                                " threads; ask for fewer with --threads"};
    }
  }
  return pool;
}

ThreadPool::~ThreadPool() {
  stopping.store(true, std::memory_order_relaxed);
  start(count);
  for (std::thread &thread : threads)
    thread.join();
}

void ThreadPool::await(const std::atomic<uint32_t> &value, uint32_t old) const {
  using Clock = std::chrono::steady_clock;
  auto changed = [&] { return value.load(std::memory_order_acquire) != old; };
  for (int i = 0; i < 32; ++i) {
    if (changed())
      return;
    relax();
  }
  auto start = Clock::now();
  while (Clock::now() - start < spinTime)
    for (int i = 0; i < 32; ++i) {
      if (changed())
        return;
      relax();
    }
  while (Clock::now() - start < spinTime + yieldTime) {
    if (changed())
      return;
    sched_yield();
  }
  while (!changed())
    value.wait(old, std::memory_order_acquire);
}

void ThreadPool::awaitCounter(const int32_t *counter, int32_t value) {
  // Shorter than a barrier's wait: the one we wait for is in the midst of its part. Code of a plan
  // counts and wakes nobody, so who sleeps looks again by himself.
  for (int i = 0; __atomic_load_n(counter, __ATOMIC_ACQUIRE) != value; ++i)
    if (i < 2000)
      relax();
    else if (i < 2100)
      sched_yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(50));
}

void ThreadPool::barrier() {
  if (active == 1)
    return;
  uint32_t old = phase.load(std::memory_order_relaxed);
  if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 < active)
    return await(phase, old);
  arrived.store(0, std::memory_order_relaxed); // published by the change of phase
  phase.fetch_add(1);
  // No system call where nobody sleeps. That check must not overtake the change: hence no weaker
  // order than the default one above.
  phase.notify_all();
}

void ThreadPool::start(int workers) {
  for (int worker = 1; worker < workers; ++worker) {
    runs[worker].count.fetch_add(1);
    runs[worker].count.notify_one();
  }
}

void ThreadPool::run(Work newWork, void *newContext, int newActive) {
  work = newWork;
  context = newContext;
  active = newActive;
  start(active);
  newWork(newContext, 0);
  barrier();
}

void ThreadPool::workerLoop(int worker) {
  for (uint32_t seen = 0;; ++seen) {
    await(runs[worker].count, seen);
    if (stopping.load(std::memory_order_relaxed))
      return;
    work(context, worker);
    barrier();
  }
}

} // namespace moe::cpu
