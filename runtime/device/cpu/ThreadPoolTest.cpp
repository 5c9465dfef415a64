// Barriers and runs, also with far more workers than processors.
#include "runtime/device/cpu/ThreadPool.h"

#include "runtime/device/TestSystem.h"
#include "runtime/device/cpu/Processors.h"

#include <cerrno>
#include <random>

using namespace moe;
using namespace moe::cpu;

namespace {

// Each worker writes its slot in one phase and reads all the others' in the next.
struct Relay {
  ThreadPool *pool;
  int rounds, active;
  std::vector<int64_t> slots; // not atomic: the barrier must publish them
  std::atomic<int> wrong{0};

  static void work(void *self, int worker) {
    auto &relay = *static_cast<Relay *>(self);
    for (int round = 0; round < relay.rounds; ++round) {
      relay.slots[worker] += worker + round;
      relay.pool->barrier();
      for (int other = 0; other < relay.active; ++other) {
        int64_t expected = int64_t(other) * (round + 1) + int64_t(round) * (round + 1) / 2;
        relay.wrong += relay.slots[other] != expected;
      }
      relay.pool->barrier();
    }
  }
};

void relay(int workers, int runs, int rounds) {
  auto pool = ThreadPool::create(workers);
  ASSERT_TRUE(pool);
  for (int run = 0; run < runs; ++run) {
    Relay relay{pool->get(), rounds, workers, std::vector<int64_t>(workers)};
    (*pool)->run(Relay::work, &relay);
    EXPECT_EQ(relay.wrong, 0);
  }
}

// Runs of some of the workers, in any order: nobody else takes part, and nobody misses his turn.
TEST(ThreadPool, SomeWorkers) {
  const int workers = 5;
  auto pool = ThreadPool::create(workers);
  ASSERT_TRUE(pool);
  std::mt19937 random(1);
  for (int run = 0; run < 3000; ++run) {
    const int active = 1 + int(random() % workers);
    Relay relay{pool->get(), 2, active, std::vector<int64_t>(workers)};
    (*pool)->run(Relay::work, &relay, active);
    ASSERT_EQ(relay.wrong, 0);
    for (int worker = active; worker < workers; ++worker)
      ASSERT_EQ(relay.slots[worker], 0);
    if (run % 500 == 0) // some sleep, some do not yet
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

TEST(ThreadPool, OneWorkerIsTheCaller) {
  auto pool = ThreadPool::create(1);
  std::thread::id id;
  (*pool)->run(
      [](void *id, int worker) {
        EXPECT_EQ(worker, 0);
        *static_cast<std::thread::id *>(id) = std::this_thread::get_id();
      },
      &id);
  EXPECT_EQ(id, std::this_thread::get_id());
  relay(1, 3, 10);
}

TEST(ThreadPool, ManyBarriers) { relay(2, 5, 4000); }
TEST(ThreadPool, ManyRuns) { relay(3, 2000, 1); }
TEST(ThreadPool, MoreWorkersThanProcessors) { relay(4 * defaultThreads() + 3, 5, 100); }

TEST(ThreadPool, WakesWorkersThatSleep) {
  auto pool = ThreadPool::create(3);
  for (int run = 0; run < 20; ++run) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2)); // long past the yielding
    std::atomic<int> count{0};
    (*pool)->run([](void *count, int) { ++*static_cast<std::atomic<int> *>(count); }, &count);
    EXPECT_EQ(count, 3);
  }
}

// Each worker waits for the one before it, in runs of more workers than processors too.
TEST(ThreadPool, CountersPublish) {
  struct Chain {
    int32_t counter = 0;
    int64_t sum = 0; // not atomic: the counter must publish it
  } chain;
  int workers = 2 * defaultThreads() + 1;
  auto pool = ThreadPool::create(workers);
  for (int run = 0; run < 50; ++run) {
    chain = {};
    (*pool)->run(
        [](void *context, int worker) {
          auto &chain = *static_cast<Chain *>(context);
          ThreadPool::awaitCounter(&chain.counter, worker);
          chain.sum += worker;
          __atomic_fetch_add(&chain.counter, 1, __ATOMIC_RELEASE);
        },
        &chain);
    EXPECT_EQ(chain.sum, int64_t(workers) * (workers - 1) / 2);
  }
}

TEST(ThreadPool, UnusedPoolsEnd) {
  for (int i = 0; i < 20; ++i)
    EXPECT_TRUE(ThreadPool::create(4));
  EXPECT_FALSE(ThreadPool::create(0));
}

TEST(ThreadPool, SaysHowManyThreadsThereAre) {
  for (int error : {EAGAIN, EPERM})
    for (int number : {SYS_clone3, SYS_clone})
      withoutCall(number, error, [] {
        auto pool = ThreadPool::create(3);
        return pool || pool.error().message ==
                           "the system gave 1 of 3 threads; ask for fewer with --threads";
      });
}

TEST(ThreadPool, LeavesTheCallersAffinity) {
  auto before = allowedProcessors();
  relay(int(before.size()), 1, 1);
  EXPECT_EQ(allowedProcessors(), before);
}

} // namespace
