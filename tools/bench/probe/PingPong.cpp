#include "tools/bench/probe/PingPong.h"

#include "runtime/device/cpu/Processors.h"
#include "runtime/device/cpu/ThreadPool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <pthread.h>
#include <sched.h>

namespace moe {
namespace {

constexpr int kBatches = 21, kRoundTrips = 500;

// Keeps the calling thread on one processor.
class Pin {
public:
  explicit Pin(int processor) {
    cpu_set_t one;
    CPU_ZERO(&one);
    done = processor < CPU_SETSIZE &&
           pthread_getaffinity_np(pthread_self(), sizeof before, &before) == 0;
    if (!done)
      return;
    CPU_SET(processor, &one);
    done = pthread_setaffinity_np(pthread_self(), sizeof one, &one) == 0;
  }
  ~Pin() {
    if (done)
      pthread_setaffinity_np(pthread_self(), sizeof before, &before);
  }
  Pin(const Pin &) = delete;

  bool done;

private:
  cpu_set_t before;
};

struct Game {
  cpu::ThreadPool &pool;
  std::vector<int> processors;
  std::vector<double> times;
  std::atomic<bool> pinned{true};
  alignas(128) std::atomic<int> ball{0};

  void play(int side) {
    Pin pin(processors[side]);
    if (!pin.done)
      pinned = false;
    for (int batch = 0; batch < kBatches; ++batch) {
      if (side == 0)
        ball = 0;
      pool.barrier();
      auto start = std::chrono::steady_clock::now();
      for (int trip = 0; trip < kRoundTrips; ++trip) {
        awaitBall(2 * trip + side);
        ball.store(2 * trip + side + 1, std::memory_order_release);
      }
      if (side == 0) {
        awaitBall(2 * kRoundTrips);
        std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
        times.push_back(time.count() / (2 * kRoundTrips));
      }
      pool.barrier();
    }
  }

  // Who waits for long may be in the way of another process.
  void awaitBall(int value) const {
    for (int polls = 0; ball.load(std::memory_order_acquire) != value;)
      if (++polls == 10000) {
        sched_yield();
        polls = 0;
      }
  }
};

} // namespace

std::optional<double> pingPongNanoseconds() {
  std::vector<int> processors = cpu::allowedProcessors();
  if (processors.size() < 2)
    return std::nullopt;
  auto pool = cpu::ThreadPool::create(2);
  if (!pool)
    return std::nullopt;
  Game game{**pool, std::move(processors), {}};
  (*pool)->run([](void *self, int side) { static_cast<Game *>(self)->play(side); }, &game);
  if (!game.pinned)
    return std::nullopt;
  std::nth_element(game.times.begin(), game.times.begin() + kBatches / 2, game.times.end());
  return game.times[kBatches / 2];
}

} // namespace moe
