// The parts of what moec inspect prints, in their order.
#ifndef MOE_TOOLS_MOEC_INSPECTPARTS_H
#define MOE_TOOLS_MOEC_INSPECTPARTS_H

#include "runtime/plan/Plan.h"
#include "llvm/Support/raw_ostream.h"

namespace moe {

// InspectWeights.cpp: weights by kind and by section, and one by one.
void printWeights(llvm::raw_ostream &out, const fb::Plan &plan);
void printTensors(llvm::raw_ostream &out, const fb::Plan &plan);

// InspectPrograms.cpp: the kernels, and the programs that call them, with each call where `calls`.
void printKernels(llvm::raw_ostream &out, const fb::Plan &plan);
void printPrograms(llvm::raw_ostream &out, const fb::Plan &plan, bool calls);

} // namespace moe

#endif
