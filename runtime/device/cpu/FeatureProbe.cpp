// One instruction of each feature, on registers alone.
#include "runtime/device/cpu/FeatureProbe.h"

#include <array>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <mutex>
#include <pthread.h>
#include <string_view>

namespace moe::cpu {
namespace {

struct Probe {
  std::string_view feature;
  void (*instruction)();
};

#if defined(__x86_64__)

#define MOE_VECTOR(text) [] { asm volatile(text "\n\tvzeroupper" ::: "xmm0"); }

// Three tiles of one row of four bytes; ldtilecfg, what is tried, and tilerelease by their
// encoding, which older assemblers do not know.
constexpr std::array<uint8_t, 64> kTileConfig = [] {
  std::array<uint8_t, 64> config{1};
  for (int tile = 0; tile < 3; ++tile) {
    config[16 + 2 * tile] = 4;
    config[48 + tile] = 1;
  }
  return config;
}();
#define MOE_TILES(bytes)                                                                           \
  [] {                                                                                             \
    asm volatile(".byte 0xc4, 0xe2, 0x78, 0x49, 0x07" bytes                                        \
                 "; .byte 0xc4, 0xe2, 0x78, 0x49, 0xc0" ::"D"(kTileConfig.data())                  \
                 : "memory");                                                                      \
  }

constexpr Probe kProbes[] = {
    {"avx2", MOE_VECTOR("vpaddd %%ymm0, %%ymm0, %%ymm0")},
    {"fma", MOE_VECTOR("vfmadd231ps %%ymm0, %%ymm0, %%ymm0")},
    {"f16c", MOE_VECTOR("vcvtph2ps %%xmm0, %%ymm0")},
    {"bmi2",
     [] {
       asm volatile("rorx $1, %%eax, %%eax" ::: "eax");
     }},
    {"avx512f", MOE_VECTOR("vpaddd %%zmm0, %%zmm0, %%zmm0")},
    {"avx512bw", MOE_VECTOR("vpaddw %%zmm0, %%zmm0, %%zmm0")},
    {"avx512dq", MOE_VECTOR("vpmullq %%zmm0, %%zmm0, %%zmm0")},
    {"avx512vl", MOE_VECTOR("vpabsq %%ymm0, %%ymm0")},
    {"avx512cd", MOE_VECTOR("vplzcntd %%zmm0, %%zmm0")},
    {"avx512_bf16", MOE_VECTOR("vdpbf16ps %%zmm0, %%zmm0, %%zmm0")},
    {"avx512_vnni", MOE_VECTOR("vpdpbusd %%zmm0, %%zmm0, %%zmm0")},
    {"avx512vbmi", MOE_VECTOR("vpermb %%zmm0, %%zmm0, %%zmm0")},
    {"avx_vnni", MOE_VECTOR("%{vex%} vpdpbusd %%ymm0, %%ymm0, %%ymm0")},
    {"amx_tile", MOE_TILES("")},
    {"amx_bf16", MOE_TILES("; .byte 0xc4, 0xe2, 0x6a, 0x5c, 0xc1")}, // tdpbf16ps tmm0, tmm1, tmm2
    {"amx_int8", MOE_TILES("; .byte 0xc4, 0xe2, 0x6a, 0x5e, 0xc1")}, // tdpbsud
};

#undef MOE_VECTOR
#undef MOE_TILES

#elif defined(__aarch64__)

// By their encoding: assemblers take those alone that the compiler was told to use.
constexpr Probe kProbes[] = {
    {"asimddp",
     [] {
       asm volatile(".inst 0x6e809400 // udot v0.4s, v0.16b, v0.16b" ::: "v0");
     }},
    {"i8mm",
     [] {
       asm volatile(".inst 0x4e80a400 // smmla v0.4s, v0.16b, v0.16b" ::: "v0");
     }},
    {"bf16",
     [] {
       asm volatile(".inst 0x6e40ec00 // bfmmla v0.4s, v0.8h, v0.8h" ::: "v0");
     }},
    {"asimdhp",
     [] {
       asm volatile(".inst 0x4e401400 // fadd v0.8h, v0.8h, v0.8h" ::: "v0");
     }},
    {"sve",
     [] {
       asm volatile(".inst 0x04200000 // add z0.b, z0.b, z0.b" ::: "v0");
     }},
    {"sve2",
     [] {
       asm volatile(".inst 0x44007000 // sqrdmlah z0.b, z0.b, z0.b" ::: "v0");
     }},
};

#else

constexpr Probe kProbes[] = {{"none", nullptr}};

#endif

// Of the one that tries.
std::mutex mutex;
pthread_t prober;
sigjmp_buf back;
struct sigaction before;

void onIllegalInstruction(int) {
  if (pthread_equal(pthread_self(), prober))
    siglongjmp(back, 1);
  sigaction(SIGILL, &before, nullptr); // and the instruction raises it again
}

} // namespace

bool executes(void (*instruction)()) {
  const std::lock_guard lock(mutex);
  prober = pthread_self();
  // A signal that is blocked would end the process, whatever its action.
  sigset_t illegal, blocked;
  sigemptyset(&illegal);
  sigaddset(&illegal, SIGILL);
  pthread_sigmask(SIG_UNBLOCK, &illegal, &blocked);
  struct sigaction action = {};
  action.sa_handler = onIllegalInstruction;
  sigaction(SIGILL, &action, &before);
  volatile bool returned = false;
  if (sigsetjmp(back, 1) == 0) {
    instruction();
    returned = true;
  }
  sigaction(SIGILL, &before, nullptr);
  pthread_sigmask(SIG_SETMASK, &blocked, nullptr);
  return returned;
}

std::vector<std::string> notExecuted(std::span<const std::string> features) {
  std::vector<std::string> refused;
  for (const std::string &feature : features)
    for (const Probe &probe : kProbes)
      if (probe.feature == feature && !executes(probe.instruction))
        refused.push_back(feature);
  return refused;
}

} // namespace moe::cpu
