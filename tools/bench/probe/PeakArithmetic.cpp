// Independent accumulators cover the latency of two units of 4 to 6 cycles, as many as the
// registers allow beside the operands. Those are zeros, and an empty asm keeps the compiler from
// knowing it.
#include "tools/bench/probe/PeakArithmetic.h"

#include "runtime/device/cpu/ThreadPool.h"

#include <algorithm>
#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#define MOE_ANY_VECTOR(v) asm volatile("" : "+v"(v))
#elif defined(__aarch64__)
#include <arm_neon.h>
#define MOE_ANY_VECTOR(v) asm volatile("" : "+w"(v))
#endif

namespace moe {
namespace {

#define MOE_12(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11)
#define MOE_24(M) MOE_12(M) M(12) M(13) M(14) M(15) M(16) M(17) M(18) M(19) M(20) M(21) M(22) M(23)

// A round is one instruction on each accumulator. `op` names accumulator, a and b.
#define MOE_ACCUMULATE(i)                                                                          \
  sum##i = op(sum##i, a, b);                                                                       \
  MOE_ANY_VECTOR(sum##i);
#define MOE_START(i) auto sum##i = zero;
#define MOE_LOOP(EACH)                                                                             \
  auto a = one, b = one;                                                                           \
  MOE_ANY_VECTOR(a);                                                                               \
  MOE_ANY_VECTOR(b);                                                                               \
  EACH(MOE_START)                                                                                  \
  for (long round = 0; round < rounds; ++round) {                                                  \
    EACH(MOE_ACCUMULATE)                                                                           \
  }

#if defined(__x86_64__)

[[gnu::target("avx512f")]] void fp32Avx512(long rounds) {
  const __m512 zero = _mm512_setzero_ps(), one = zero;
#define op(sum, a, b) _mm512_fmadd_ps(a, b, sum)
  MOE_LOOP(MOE_24)
#undef op
}

[[gnu::target("avx2,fma")]] void fp32Avx2(long rounds) {
  const __m256 zero = _mm256_setzero_ps(), one = zero;
#define op(sum, a, b) _mm256_fmadd_ps(a, b, sum)
  MOE_LOOP(MOE_12)
#undef op
}

[[gnu::target("avx512f,avx512bf16")]] void bf16Avx512(long rounds) {
  const __m512 zero = _mm512_setzero_ps();
  const auto one = (__m512bh)zero;
#define op(sum, a, b) _mm512_dpbf16_ps(sum, a, b)
  MOE_LOOP(MOE_24)
#undef op
}

[[gnu::target("avx512f,avx512vnni")]] void int8Avx512(long rounds) {
  const __m512i zero = _mm512_setzero_si512(), one = zero;
#define op(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
  MOE_LOOP(MOE_24)
#undef op
}

[[gnu::target("avx2,avxvnni")]] void int8AvxVnni(long rounds) {
  const __m256i zero = _mm256_setzero_si256(), one = zero;
#define op(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
  MOE_LOOP(MOE_12)
#undef op
}

// Without an instruction for it: 16-bit sums of pairs. The two steps to 32 bits that a product
// needs once in a while are left out.
[[gnu::target("avx2")]] void int8Avx2(long rounds) {
  const __m256i zero = _mm256_setzero_si256(), one = zero;
#define op(sum, a, b) _mm256_maddubs_epi16(sum, b)
  MOE_LOOP(MOE_12)
  MOE_ANY_VECTOR(a);
#undef op
}

#elif defined(__aarch64__)

void fp32Neon(long rounds) {
  const float32x4_t zero = vdupq_n_f32(0), one = zero;
#define op(sum, a, b) vfmaq_f32(sum, a, b)
  MOE_LOOP(MOE_24)
#undef op
}

#endif

struct Choice {
  PeakArithmetic peak;
  bool (*available)();
};

// Products of one vector: two operations for each of them, for each accumulator.
constexpr double perRound(int products, int accumulators) { return 2.0 * products * accumulators; }

// The best of a type first.
const Choice kChoices[] = {
#if defined(__x86_64__)
    {{"fp32", "vfmadd231ps zmm", perRound(16, 24), fp32Avx512},
     [] { return bool(__builtin_cpu_supports("avx512f")); }},
    {{"fp32", "vfmadd231ps ymm", perRound(8, 12), fp32Avx2},
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
    {{"bf16", "vdpbf16ps zmm", perRound(32, 24), bf16Avx512},
     [] { return bool(__builtin_cpu_supports("avx512bf16")); }},
    {{"int8", "vpdpbusd zmm", perRound(64, 24), int8Avx512},
     [] { return bool(__builtin_cpu_supports("avx512vnni")); }},
    {{"int8", "vpdpbusd ymm", perRound(32, 12), int8AvxVnni},
     [] { return bool(__builtin_cpu_supports("avxvnni")); }},
    {{"int8", "vpmaddubsw ymm", perRound(32, 12), int8Avx2},
     [] { return bool(__builtin_cpu_supports("avx2")); }},
#elif defined(__aarch64__)
    {{"fp32", "fmla v.4s", perRound(4, 24), fp32Neon}, [] { return true; }},
#endif
};

} // namespace

const PeakArithmetic *peakArithmetic(std::string_view type) {
  for (const Choice &choice : kChoices)
    if (choice.peak.type == type && choice.available())
      return &choice.peak;
  return nullptr;
}

double measure(const PeakArithmetic &peak, int threads) {
  auto pool = cpu::ThreadPool::create(threads);
  if (!pool)
    return 0;
  struct Job {
    const PeakArithmetic &peak;
    long rounds;
  } job{peak, 1000};
  const auto seconds = [&] {
    auto start = std::chrono::steady_clock::now();
    (*pool)->run(
        [](void *self, int) {
          const Job &job = *static_cast<Job *>(self);
          job.peak.run(job.rounds);
        },
        &job);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  while (seconds() < 5e-3) // and the clock rises meanwhile
    job.rounds *= 2;
  double best = seconds();
  for (int i = 0; i < 9; ++i)
    best = std::min(best, seconds());
  return peak.operations * double(job.rounds) * threads / best;
}

} // namespace moe
