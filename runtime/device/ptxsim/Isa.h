// Versions of hot loops for the vector units of this machine, chosen when the program runs.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_ISA_H
#define MOE_RUNTIME_DEVICE_PTXSIM_ISA_H

#include <utility>

// MOE_PTXSIM_V3, MOE_PTXSIM_V4: attributes of functions for x86-64-v3 and v4. Features are listed
// by name, since g++ inlines functions without the attribute only into those with more features,
// not into those of another architecture. What such a function calls must be MOE_PTXSIM_INLINE, all
// the way down to what is worth it.
#define MOE_PTXSIM_INLINE [[gnu::always_inline]] inline
#if defined(__x86_64__)
#define MOE_PTXSIM_HAS_VERSIONS 1
#define MOE_PTXSIM_V3 [[gnu::target("avx2,fma,bmi,bmi2,lzcnt,popcnt,f16c")]]
#define MOE_PTXSIM_V4                                                                              \
  [[gnu::target("avx2,fma,bmi,bmi2,lzcnt,popcnt,f16c,avx512f,avx512bw,avx512dq,avx512vl,"          \
                "avx512cd")]]
#else
#define MOE_PTXSIM_HAS_VERSIONS 0
#endif
// For what need not be fast: loops stay loops.
#if defined(__clang__)
#define MOE_PTXSIM_SMALL [[clang::minsize]]
#else
#define MOE_PTXSIM_SMALL
#endif

namespace moe::ptxsim {

// 2, 3 or 4. MOE_PTXSIM_ISA lowers it.
int isaLevel();

// versions<FUNCTION>(): a pointer to the version of FUNCTION that this machine runs best.
template <auto function> struct Versions;
template <class R, class... A, R (*function)(A...)> struct Versions<function> {
#if !MOE_PTXSIM_HAS_VERSIONS
  static R base(A... arguments) { return function(std::forward<A>(arguments)...); }
#else // few machines lack AVX2
  MOE_PTXSIM_SMALL static R base(A... arguments) { return function(std::forward<A>(arguments)...); }
  MOE_PTXSIM_V3 static R v3(A... arguments) { return function(std::forward<A>(arguments)...); }
  MOE_PTXSIM_V4 static R v4(A... arguments) { return function(std::forward<A>(arguments)...); }
#endif
};
template <auto function> auto versions() {
  using V = Versions<function>;
#if MOE_PTXSIM_HAS_VERSIONS
  int level = isaLevel();
  return level >= 4 ? V::v4 : level == 3 ? V::v3 : V::base;
#else
  return V::base;
#endif
}

} // namespace moe::ptxsim

#endif
