// How many bytes of weights there are, and how many one decoded token reads.
#ifndef MOE_TOOLS_MOE_RUN_WEIGHTBYTES_H
#define MOE_TOOLS_MOE_RUN_WEIGHTBYTES_H

#include "runtime/plan/Plan.h"

namespace moe {

// Of the weights that the programs of a device read.
struct WeightBytes {
  uint64_t all = 0;
  // For one token: all but the embedding table, one row of which is nothing beside the rest, and of
  // a tensor whose first dimension is the routed experts (and the shared one), the share that a
  // token is routed to.
  uint64_t active = 0;
};
WeightBytes weightBytes(const Plan &plan, std::string_view device);

} // namespace moe

#endif
