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

struct CacheSize {
  uint64_t bytes = 0;
  std::vector<int64_t> pages; // per pool
};

// What `options` (with defaults filled in) ask for. Error: ResourceExhausted, with what is needed,
// what there is and what would fit. A device with memory of its own has what its weights and
// activations leave.
//
// A budget goes to chunked pools first, for what the sequences need of them at most, and a quarter
// of what is left to keep with a prefix cache; the others get the rest. But each pool has what one
// sequence needs, and else a chunked pool has no more pages than the others: each of its pages
// belongs to a sequence or prefix with a page there.
Result<CacheSize> cacheSize(const SessionModel &model, const SessionOptions &options);

} // namespace moe

#endif
