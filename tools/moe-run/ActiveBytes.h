// How many bytes of weights one decoded token reads.
#ifndef MOE_TOOLS_MOE_RUN_ACTIVEBYTES_H
#define MOE_TOOLS_MOE_RUN_ACTIVEBYTES_H

#include "runtime/plan/Plan.h"

namespace moe {

// Of the weights that the programs of `device` read. Of all but the embedding table, one row of
// which is nothing beside them. Of a tensor whose first dimension is the routed experts (and the
// shared one), the share that a token is routed to.
uint64_t activeWeightBytes(const Plan &plan, std::string_view device);

} // namespace moe

#endif
