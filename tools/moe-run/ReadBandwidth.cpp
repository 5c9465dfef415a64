// A plain sum over memory. Each thread reads one stream in chunks of 2 MB, the pattern that
// machines read fastest; with vectors of 64 bytes where the processor has them, so that arithmetic
// is no limit.
#include "tools/moe-run/ReadBandwidth.h"

#include "runtime/device/cpu/CpuFeatures.h"
#include "runtime/device/cpu/Memory.h"
#include "runtime/device/cpu/ThreadPool.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

namespace moe {
namespace {

constexpr size_t kChunk = size_t(2) << 20, kBytes = size_t(512) << 20;

// 64 bytes; the compiler splits it where vectors are shorter.
using Vector __attribute__((vector_size(64))) = uint64_t;
constexpr size_t kVectors = kChunk / 64; // of a chunk

// The body is compiled once for each kind of processor.
#define MOE_SUM_BODY                                                                               \
  Vector a = {}, b = {}, c = {}, d = {};                                                           \
  for (const Vector *end = v + kVectors; v != end; v += 4) {                                       \
    a += v[0];                                                                                     \
    b += v[1];                                                                                     \
    c += v[2];                                                                                     \
    d += v[3];                                                                                     \
  }                                                                                                \
  a += b + c + d;                                                                                  \
  return a[0] + a[1] + a[2] + a[3] + a[4] + a[5] + a[6] + a[7];

#if defined(__x86_64__)
__attribute__((target("avx512f"))) uint64_t sumAvx512(const Vector *v) { MOE_SUM_BODY }
__attribute__((target("avx2"))) uint64_t sumAvx2(const Vector *v){MOE_SUM_BODY}
#endif
uint64_t sumPlain(const Vector *v) {
  MOE_SUM_BODY
}

using Sum = uint64_t (*)(const Vector *v);

Sum chooseSum() {
#if defined(__x86_64__)
  const std::vector<std::string> features = cpu::hostFeatures(); // as the kernels have them
  const auto has = [&](const char *feature) {
    return std::find(features.begin(), features.end(), feature) != features.end();
  };
  if (has("avx512f"))
    return sumAvx512;
  if (has("avx2"))
    return sumAvx2;
#endif
  return sumPlain;
}

class Probe final : public ReadBandwidth {
public:
  Probe(cpu::Memory memory, std::unique_ptr<cpu::ThreadPool> pool)
      : memory(std::move(memory)), pool(std::move(pool)), sum(chooseSum()),
        sums(this->pool->workers() * 8) {
    // Zero pages that were never written are all the same one.
    this->pool->run(
        [](void *self, int worker) {
          static_cast<Probe *>(self)->eachChunk(
              worker, [](std::byte *chunk, size_t) { std::memset(chunk, 1, kChunk); });
        },
        this);
  }

  double measure() override {
    std::vector<double> rates;
    for (int round = 0; round < 5; ++round) {
      auto start = std::chrono::steady_clock::now();
      pool->run(
          [](void *self, int worker) {
            auto &probe = *static_cast<Probe *>(self);
            uint64_t total = 0;
            probe.eachChunk(worker, [&](std::byte *chunk, size_t) {
              total += probe.sum(reinterpret_cast<const Vector *>(chunk));
            });
            probe.sums[worker * 8] = total; // keeps the reads; a cache line for each worker
          },
          this);
      double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      rates.push_back(double(kBytes) / seconds);
    }
    std::nth_element(rates.begin(), rates.begin() + 2, rates.end());
    return rates[2];
  }

private:
  template <typename F> void eachChunk(int worker, F body) {
    size_t chunks = kBytes / kChunk, workers = pool->workers();
    for (size_t i = chunks * worker / workers; i < chunks * (worker + 1) / workers; ++i)
      body(memory.data() + i * kChunk, i);
  }

  cpu::Memory memory;
  std::unique_ptr<cpu::ThreadPool> pool;
  Sum sum;
  std::vector<uint64_t> sums;
};

} // namespace

std::unique_ptr<ReadBandwidth> ReadBandwidth::create(int threads) {
  auto memory = cpu::Memory::zeroed(kBytes, "the bandwidth probe");
  auto pool = cpu::ThreadPool::create(threads);
  if (!memory || !pool)
    return nullptr;
  return std::make_unique<Probe>(std::move(*memory), std::move(*pool));
}

} // namespace moe
