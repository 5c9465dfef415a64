// The driver copies from pinned memory at the full speed of the bus, and only from there while the
// next bytes are being read: so the file goes through two pinned pieces in turn.
#include "runtime/device/cuda/Weights.h"

#include <algorithm>
#include <cstring>
#include <sys/mman.h>

namespace moe::cuda {
namespace {

constexpr uint64_t kAlignment = 256;
constexpr uint64_t kPiece = uint64_t(64) << 20;

// Asks the system to read the pages of a mapped file; a wish, so its answer does not matter.
void readAhead(std::span<const std::byte> bytes) {
  constexpr uintptr_t page = 4096;
  auto start = reinterpret_cast<uintptr_t>(bytes.data()) / page * page;
  auto end = reinterpret_cast<uintptr_t>(bytes.data()) + bytes.size();
  if (end > start)
    (void)madvise(reinterpret_cast<void *>(start), end - start, MADV_WILLNEED);
}

} // namespace

Result<std::vector<WeightRange>> weightRanges(const DevicePlan &plan) {
  std::vector<WeightRange> ranges(plan.sections.size());
  for (const Program &program : plan.programs)
    for (const Call &call : program.calls)
      for (const Operand &operand : call.operands) {
        if (operand.kind != OperandKind::Weight)
          continue;
        uint64_t size =
            operand.index < plan.sections.size() ? plan.sections[operand.index].size() : 0;
        if (operand.offset >= size || operand.bytes > size - operand.offset)
          return Error{Code::InvalidPlan, "a kernel call reads weights outside of their section"};
        WeightRange &range = ranges[operand.index];
        uint64_t begin = operand.offset / kAlignment * kAlignment;
        range.begin = range.end ? std::min(range.begin, begin) : begin;
        range.end = std::max(range.end, operand.bytes ? operand.offset + operand.bytes : size);
      }
  return ranges;
}

Result<Weights> Weights::upload(const Gpu &gpu, const DevicePlan &plan,
                                std::vector<WeightRange> ranges, CUstream stream,
                                const std::function<void(uint64_t, uint64_t)> &progress) {
  Weights weights;
  uint64_t total = 0, longest = 0, done = 0;
  for (const WeightRange &range : ranges) {
    total += range.end - range.begin;
    longest = std::max(longest, range.end - range.begin);
    MOE_ASSIGN(memory, gpu.allocate(range.end - range.begin, "weights"));
    weights.memory.push_back(std::move(memory));
  }
  const uint64_t piece = std::min(kPiece, longest);
  HostMemory pieces[2];
  Event copied[2];
  bool used[2] = {};
  for (int i = 0; i < 2; ++i) {
    MOE_ASSIGN(memory, gpu.allocateHost(piece, "the upload of weights"));
    pieces[i] = std::move(memory);
    MOE_ASSIGN(event, gpu.makeEvent());
    copied[i] = std::move(event);
  }
  auto copy = [&]() -> Status {
    int turn = 0;
    for (size_t section = 0; section < ranges.size(); ++section) {
      const WeightRange &range = ranges[section];
      for (uint64_t at = range.begin; at < range.end; at += piece, turn ^= 1) {
        uint64_t bytes = std::min(piece, range.end - at);
        if (at == range.begin)
          readAhead(plan.sections[section].subspan(at, bytes));
        if (uint64_t next = at + bytes; next < range.end)
          readAhead(plan.sections[section].subspan(next, std::min(piece, range.end - next)));
        if (std::exchange(used[turn], true))
          MOE_TRY(gpu.check(gpu.api.cuEventSynchronize(copied[turn].get()), "upload weights"));
        std::memcpy(pieces[turn].get(), plan.sections[section].data() + at, bytes);
        MOE_TRY(
            gpu.check(gpu.api.cuMemcpyHtoDAsync(weights.memory[section].get() + (at - range.begin),
                                                pieces[turn].get(), bytes, stream),
                      "upload weights"));
        MOE_TRY(gpu.check(gpu.api.cuEventRecord(copied[turn].get(), stream), "upload weights"));
        done += bytes;
        if (progress)
          progress(done, total);
      }
    }
    return ok();
  };
  Status status = copy();
  // Also after an error: the pieces must not go while the device may read them.
  Status finished = gpu.check(gpu.api.cuStreamSynchronize(stream), "upload weights");
  MOE_TRY(std::move(status));
  MOE_TRY(std::move(finished));
  weights.ranges = std::move(ranges);
  return weights;
}

} // namespace moe::cuda
