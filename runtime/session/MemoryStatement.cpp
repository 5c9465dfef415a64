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

namespace {

// Pages per pool without a budget.
std::vector<int64_t> worstCase(const SessionModel &model, const SessionOptions &options,
                               int32_t sequences) {
  std::vector<int64_t> pages;
  for (const CachePool &pool : model.pools)
    pages.push_back(KvCache::pagesNeeded(pool.chunk, options.context, sequences, options.maxStep));
  return pages;
}

uint64_t bytesOf(const SessionModel &model, const std::vector<int64_t> &pages) {
  uint64_t sum = 0; // cannot overflow: of a division of some bytes
  for (size_t i = 0; i < pages.size(); ++i)
    sum += uint64_t(pages[i]) * model.pools[i].pageBytes;
  return sum;
}

// Divides the budget, which is enough for one sequence.
std::vector<int64_t> divide(const SessionModel &model, const SessionOptions &options,
                            uint64_t budget) {
  std::vector<int64_t> pages = worstCase(model, options, 1);
  const std::vector<int64_t> needed = worstCase(model, options, options.maxSequences);
  uint64_t ofAll = 0, ofGlobal = 0, forChunked = 0; // bytes: of a page of each pool, of each global
  size_t chunked = 0;
  for (size_t i = 0; i < pages.size(); ++i) {
    ofAll += model.pools[i].pageBytes;
    ofGlobal += model.pools[i].chunk ? 0 : model.pools[i].pageBytes;
    chunked += model.pools[i].chunk != 0;
  }
  const auto equal =
      int64_t(std::min<uint64_t>(budget / std::max<uint64_t>(ofAll, 1), KvCache::maxPages));
  for (size_t i = 0; i < pages.size(); ++i)
    if (model.pools[i].chunk)
      forChunked += uint64_t(std::min(needed[i], equal)) * model.pools[i].pageBytes;
  uint64_t left = budget - std::min(budget, forChunked), room = budget - bytesOf(model, pages);
  for (size_t i = 0; i < pages.size(); ++i) {
    const CachePool &pool = model.pools[i];
    if (!pool.chunk)
      continue;
    int64_t wanted = needed[i];
    if (options.prefixCache && ofGlobal)
      wanted += int64_t(std::min<uint64_t>(left / 4 / chunked / pool.pageBytes, KvCache::maxPages));
    wanted = std::min({wanted, equal, pages[i] + int64_t(room / pool.pageBytes)});
    room -= uint64_t(std::max<int64_t>(wanted - pages[i], 0)) * pool.pageBytes;
    pages[i] = std::max(pages[i], wanted);
  }
  if (ofGlobal)
    for (size_t i = 0; i < pages.size(); ++i)
      if (!model.pools[i].chunk)
        pages[i] += int64_t(std::min<uint64_t>(room / ofGlobal, KvCache::maxPages - pages[i]));
  if (!options.prefixCache) // more than the sequences need is of no use
    for (size_t i = 0; i < pages.size(); ++i)
      pages[i] = std::min(pages[i], needed[i]);
  return pages;
}

// What there is for a KV cache.
struct Room {
  uint64_t bytes = 0;
  std::string beside; // for messages: what else there is in the device's memory
};

Result<Room> roomOf(const SessionModel &model, const SessionOptions &options) {
  if (!model.memory)
    return Room{options.memoryLimit ? options.memoryLimit : availableMemory(), ""};
  const DeviceMemory &memory = *model.memory;
  const std::string parts = mebibytes(memory.weights) + " of weights and " +
                            mebibytes(memory.activations) + " of activations";
  const std::string has =
      memory.device + " has " + mebibytes(memory.free) + " free of " + mebibytes(memory.total);
  const uint64_t left = memory.free - std::min(memory.free, memory.weights);
  if (memory.weights > memory.free || memory.activations > left)
    return Error{Code::ResourceExhausted,
                 "the plan needs " + parts + ", " + has +
                     "; end what else uses it, take a larger device, or choose --device cpu"};
  const uint64_t room = left - memory.activations;
  return Room{options.memoryLimit ? std::min(options.memoryLimit, room) : room,
              " beside " + parts + " (" + has + ")"};
}

// The bytes that the options allow; 0: no budget.
uint64_t budgetOf(const SessionModel &model, const SessionOptions &options, const Room &room) {
  if (options.cacheBudget || options.cacheShare <= 0)
    return options.cacheBudget;
  const uint64_t needed = cacheBytes(model, options.context, options.maxSequences, options.maxStep);
  const double most = model.memory ? 1.0 : 0.5;
  const auto share = uint64_t(double(room.bytes) * std::min(options.cacheShare, most));
  return std::max<uint64_t>(std::min(share, needed > UINT64_MAX / 2 ? needed : 2 * needed), 1);
}

} // namespace

Result<CacheSize> cacheSize(const SessionModel &model, const SessionOptions &options) {
  MOE_ASSIGN(room, roomOf(model, options));
  const uint64_t budget = budgetOf(model, options, room);
  const int32_t sequences = budget ? 1 : options.maxSequences;
  uint64_t needed = cacheBytes(model, options.context, sequences, options.maxStep);
  if (budget && needed > budget) {
    const int64_t fits = fittingContext(model, 1, options.maxStep, budget);
    return Error{Code::ResourceExhausted,
                 "a KV cache of " + mebibytes(budget) + " cannot hold one sequence of " +
                     std::to_string(options.context) + " tokens, which takes " + mebibytes(needed) +
                     "; " +
                     (fits ? "a context of " + std::to_string(fits) + " would fit"
                           : std::string("not even 64 tokens would fit"))};
  }
  CacheSize size;
  if (budget) {
    size.pages = divide(model, options, budget);
    needed = bytesOf(model, size.pages);
  }
  if (needed <= room.bytes) {
    size.bytes = needed;
    if (!budget)
      size.pages = worstCase(model, options, options.maxSequences);
    return size;
  }
  if (budget)
    return Error{Code::ResourceExhausted,
                 "a KV cache of " + mebibytes(needed) + " was asked for, " + mebibytes(room.bytes) +
                     " are available" + room.beside + "; ask for no more than that"};
  int64_t fits = fittingContext(model, options.maxSequences, options.maxStep, room.bytes);
  return Error{Code::ResourceExhausted,
               "the KV cache needs " + mebibytes(needed) + " for " +
                   std::to_string(options.maxSequences) + " x " + std::to_string(options.context) +
                   " tokens, " + mebibytes(room.bytes) + " are available" + room.beside + "; " +
                   (fits ? "--context " + std::to_string(fits) + " would fit"
                         : std::string("not even 64 tokens would fit"))};
}

} // namespace moe
