// Asks the processor once.
#include "runtime/device/ptxsim/Isa.h"

#include <algorithm>
#include <cstdlib>

namespace moe::ptxsim {

int isaLevel() {
  static const int level = [] {
    int has = 2;
#if MOE_PTXSIM_HAS_VERSIONS
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2"))
      has = 3;
    if (has == 3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512cd"))
      has = 4;
#endif
    const char *wanted = std::getenv("MOE_PTXSIM_ISA");
    return wanted ? std::min(has, std::atoi(wanted)) : has;
  }();
  return level;
}

} // namespace moe::ptxsim
