// SwiGLU, for all targets.
#ifndef MOE_COMPILER_KERNELS_GATE_UP_MATH_H
#define MOE_COMPILER_KERNELS_GATE_UP_MATH_H

#include "compiler/targets/Builder.h"

namespace moe::codegen {

// silu(gate) * up. The sigmoid is the target's: `sigmoid(x)`, of a scalar or a vector. A router's
// score scales an expert's input, and so gate and up before this.
template <class Sigmoid> Val swiglu(Val gate, Val up, Sigmoid &&sigmoid) {
  return gate * sigmoid(gate) * up;
}

} // namespace moe::codegen

#endif
