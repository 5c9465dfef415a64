// The semantic check of a plan's programs: what they declare, and that their calls touch nothing
// else.
#ifndef MOE_RUNTIME_PLAN_CHECKPROGRAMS_H
#define MOE_RUNTIME_PLAN_CHECKPROGRAMS_H

#include "runtime/Status.h"
#include "runtime/plan/Plan_generated.h"

#include <map>
#include <string_view>

namespace moe {

// By device with images: whether its kernels are PTX, launched as grids of blocks.
using ImageKinds = std::map<std::string_view, bool>;

// All other tables of the index must have been checked. Error: InvalidPlan.
Status checkPrograms(const fb::Plan &plan, const ImageKinds &images);

} // namespace moe

#endif
