// What a session's KV cache costs, said before it is allocated.
#ifndef MOE_RUNTIME_SESSION_MEMORYSTATEMENT_H
#define MOE_RUNTIME_SESSION_MEMORYSTATEMENT_H

#include "runtime/session/Session.h"

namespace moe {

// Bytes of all pages for `sequences` of up to `context` positions, or UINT64_MAX if more than that.
uint64_t cacheBytes(const SessionModel &model, int64_t context, int32_t sequences, int32_t maxStep);

// The largest context that `limit` bytes are enough for; 0 if none is.
int64_t fittingContext(const SessionModel &model, int32_t sequences, int32_t maxStep,
                       uint64_t limit);

// The bytes that `options` (with defaults filled in) ask for. Error: ResourceExhausted, with what
// is needed, what there is and what would fit. A device with memory of its own has what its weights
// and activations leave.
Result<uint64_t> checkCacheMemory(const SessionModel &model, const SessionOptions &options);

} // namespace moe

#endif
