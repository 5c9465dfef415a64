// How wide the operands of each instruction are: what immediates become, and what is checked of
// registers so that no handler reads a 64 bit value from a 32 bit register.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_SIGNATURE_H
#define MOE_RUNTIME_DEVICE_PTXSIM_SIGNATURE_H

#include "runtime/device/ptxsim/Opcode.h"

namespace moe::ptxsim {

struct Width {
  unsigned bits;     // 1: a predicate
  bool exact = true; // else registers may be of any width (ld, st, cvt)
};

// Of an element of operand GROUP, which holds SIZE of GROUPS.
Width widthOf(const Opcode &, unsigned group, unsigned groups, unsigned size, unsigned element);

// Operands that each form of the instruction has, or 0 where that depends on the form.
unsigned operandCount(Op);

} // namespace moe::ptxsim

#endif
