// Where diverged lanes meet: the immediate post-dominators of a kernel's branches.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_FLOW_H
#define MOE_RUNTIME_DEVICE_PTXSIM_FLOW_H

#include "runtime/device/ptxsim/Module.h"

namespace moe::ptxsim {

// Sets Instruction::reconverge of each branch; code.size() means that only the exit joins them.
void findReconvergence(Entry &);

} // namespace moe::ptxsim

#endif
