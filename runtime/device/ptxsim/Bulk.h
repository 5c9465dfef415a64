// Bulk copies: what those of ranges and those of tensors share.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_BULK_H
#define MOE_RUNTIME_DEVICE_PTXSIM_BULK_H

#include "runtime/device/ptxsim/Access.h"

namespace moe::ptxsim {

// Reports operands that nothing wrote.
bool requireOperands(Warp &, const Instruction &);

// Queues a copy of BYTES to shared memory for LANE. It completes at the mbarrier of the block that
// receives it; both are where the operands GROUP_TO and GROUP_MBARRIER say or, of a multicast, at
// that offset in the blocks whose ranks MASK names. FROM says what is copied. False after a report.
bool queueLoad(Warp &, const Instruction &, unsigned lane, unsigned groupTo, unsigned groupMbarrier,
               uint32_t bytes, std::optional<uint32_t> mask, const BulkLoad &from);

// Checks that LANE may copy BYTES of its block's shared memory, and lends them. False after a
// report.
bool lendShared(Warp &, const Instruction &, unsigned lane, uint32_t from, uint32_t bytes);

// Reads what LOAD copies, now: BYTES of data, and whether each of them was written.
void readSource(const Grid &, const BulkLoad &load, uint8_t *data, uint8_t *written);

} // namespace moe::ptxsim

#endif
