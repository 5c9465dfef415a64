// The most arithmetic that this processor's vector units do, from registers alone: the floor that
// prefill is measured against.
#ifndef MOE_TOOLS_BENCH_PROBE_PEAKARITHMETIC_H
#define MOE_TOOLS_BENCH_PROBE_PEAKARITHMETIC_H

#include <string_view>
#include <vector>

namespace moe {

// One multiply-accumulate instruction on its widest vectors.
struct PeakArithmetic {
  const char *type;        // "fp32", "bf16" or "int8": what is multiplied
  const char *instruction; // "vpdpbusd zmm"
  double operations;       // of one round of `run`; a multiplication and an addition are two
  void (*run)(long rounds);
};

// The best instruction for `type` that this processor has, or null.
const PeakArithmetic *peakArithmetic(std::string_view type);

// Operations per second of so many threads at once: the best of ten times 5 ms, since whatever
// disturbs makes it less. 0 if the system does not give the threads.
double measure(const PeakArithmetic &peak, int threads);

} // namespace moe

#endif
