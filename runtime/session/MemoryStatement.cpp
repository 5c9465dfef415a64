// The KV cache is touched lazily, so the system would promise more than it has and end the process
// in the middle of a text: the sum is done here instead.
#include "runtime/session/MemoryStatement.h"

#include "runtime/device/SystemMemory.h"

#include <algorithm>

namespace moe {

uint64_t cacheBytes(const SessionModel &model, int64_t context, int32_t sequences,
                    int32_t maxStep) {
  uint64_t sum = 0;
  for (const CachePool &pool : model.pools) {
    uint64_t pages = KvCache::pagesNeeded(pool.chunk, context, sequences, maxStep);
    uint64_t bytes;
    if (__builtin_mul_overflow(pages, pool.pageBytes, &bytes) ||
        __builtin_add_overflow(sum, bytes, &sum))
      return UINT64_MAX;
  }
  return sum;
}

int64_t fittingContext(const SessionModel &model, int32_t sequences, int32_t maxStep,
                       uint64_t limit) {
  int64_t fits = 0, tooMany = KvCache::tableStride(model.maxPositions) + 1; // in pages
  while (fits + 1 < tooMany) {
    int64_t middle = fits + (tooMany - fits) / 2;
    bool enough = cacheBytes(model, middle * KvCache::pageTokens, sequences, maxStep) <= limit;
    (enough ? fits : tooMany) = middle;
  }
  return std::min(fits * KvCache::pageTokens, model.maxPositions);
}

Result<uint64_t> checkCacheMemory(const SessionModel &model, const SessionOptions &options) {
  uint64_t needed = cacheBytes(model, options.context, options.maxSequences, options.maxStep);
  uint64_t limit = options.memoryLimit;
  std::string beside;
  if (const std::optional<DeviceMemory> &memory = model.memory) {
    const std::string parts = mebibytes(memory->weights) + " of weights and " +
                              mebibytes(memory->activations) + " of activations";
    const std::string has =
        memory->device + " has " + mebibytes(memory->free) + " free of " + mebibytes(memory->total);
    const uint64_t left = memory->free - std::min(memory->free, memory->weights);
    if (memory->weights > memory->free || memory->activations > left)
      return Error{Code::ResourceExhausted,
                   "the plan needs " + parts + ", " + has +
                       "; end what else uses it, take a larger device, or choose --device cpu"};
    const uint64_t room = left - memory->activations;
    limit = limit ? std::min(limit, room) : room;
    beside = " beside " + parts + " (" + has + ")";
  } else if (!limit) {
    limit = availableMemory();
  }
  if (needed <= limit)
    return needed;
  int64_t fits = fittingContext(model, options.maxSequences, options.maxStep, limit);
  return Error{Code::ResourceExhausted,
               "the KV cache needs " + mebibytes(needed) + " for " +
                   std::to_string(options.maxSequences) + " x " + std::to_string(options.context) +
                   " tokens, " + mebibytes(limit) + " are available" + beside + "; " +
                   (fits ? "--context " + std::to_string(fits) + " would fit"
                         : std::string("not even 64 tokens would fit"))};
}

} // namespace moe
