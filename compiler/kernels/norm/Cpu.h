// RMSNorm on a CPU, of tokens whose rows feed products, and of routed layers their experts.
#ifndef MOE_COMPILER_KERNELS_NORM_CPU_H
#define MOE_COMPILER_KERNELS_NORM_CPU_H

#include "compiler/kernels/router/Cpu.h"

namespace moe::codegen {

// Norms tokens into rows of activations; with experts also routes them, on the float32 row that the
// norm gives.
struct CpuNormRows {
  CpuKernel &k;
  int64_t hidden, experts, perToken;
  WeightFormat shared, routed;
  float eps;
  Ptr h, norm, routerWeight, x, chosen, scores; // x: see CpuNorm

  ActivationRow sharedRow{shared, hidden}, routedRow{experts ? routed : shared, hidden};
  bool oneRow = sharedRow.sameAs(routedRow);
  int64_t width = padded(hidden);
  Ptr row = k.scratch(width * 4);
  CpuRouter router{k, hidden, experts, perToken, routerWeight, chosen, scores};

  // Of tokens [first, last).
  void run(Val first, Val last);
};

} // namespace moe::codegen

#endif
