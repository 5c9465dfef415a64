// Feeds arbitrary bytes to Plan::open. The first byte says whether they are a whole file, or an
// index whose header is made to match, since no fuzzer guesses hashes. Without a corpus it starts
// from the indices of the sample plans.
#include "runtime/plan/SamplePlan.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

using namespace moe;

namespace {

// Of sections, before an index; all zeros.
constexpr size_t kRoom = 6 * kSectionAlignment;

// As a device reads an accepted plan: every byte that an operand or an entry names must be there.
void use(const Plan &plan) {
  volatile uint8_t sum = 0;
  const auto touch = [&](std::span<const std::byte> data, uint64_t first, uint64_t bytes) {
    sum = sum + uint8_t(data[first]) + uint8_t(data[first + bytes - 1]);
  };
  for (const fb::Image *image : *plan.index().images())
    for (uint64_t entry : *image->entries())
      if (entry != ~uint64_t(0))
        touch(plan.section(image->section()), entry, 1);
  const auto nameOf = [&](const fb::TensorSpec &spec) {
    sum = sum + spec.name()->size() + spec.dims()->size();
    if (spec.pool() >= 0)
      sum = sum + plan.index().caches()->Get(uint32_t(spec.pool()))->name()->size();
  };
  if (const fb::Vision *vision = plan.index().vision()) // as a session computes with them
    sum = sum + vision->tile_size() / vision->patch_size() + vision->rows_per_tile() +
          vision->max_tiles() + vision->patch();
  for (const fb::Program *program : *plan.index().programs())
    for (const fb::Call *call : *program->calls()) {
      const fb::KernelCall &kernel = *call->operation_as_KernelCall();
      sum = sum + plan.index().kernels()->Get(kernel.kernel())->name()->size();
      for (const fb::Operand *operand : *kernel.operands()) {
        if (operand->kind() == fb::OperandKind::Weight)
          touch(plan.section(operand->index()), operand->offset(), operand->bytes());
        if (operand->kind() == fb::OperandKind::Input)
          nameOf(*program->inputs()->Get(operand->index()));
        if (operand->kind() == fb::OperandKind::Output)
          nameOf(*program->outputs()->Get(operand->index()));
      }
    }
  for (const fb::Tensor *tensor : *plan.index().tensors())
    touch(plan.section(tensor->section()), tensor->offset(), tensor->bytes());
}
} // namespace

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed) {
  if (size > 16)
    return LLVMFuzzerMutate(data, size, most);
  constexpr fb::PlanT (*samples[])() = {samplePlan, sampleGpuPlan, sampleVisionPlan};
  fb::PlanT plan = samples[seed % std::size(samples)]();
  const std::byte zeros[kSectionAlignment] = {};
  for (auto &section : plan.sections)
    section->hash = hashBytes(zeros, section->length);
  flatbuffers::FlatBufferBuilder builder;
  fb::FinishPlanBuffer(builder, fb::Plan::Pack(builder, &plan));
  const size_t bytes = std::min<size_t>(builder.GetSize() + 1, most);
  data[0] = 0;
  std::memcpy(data + 1, builder.GetBufferPointer(), bytes - 1);
  return bytes;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0)
    return 0;
  const bool whole = *data++ & 1;
  --size;
  const size_t room = whole ? 0 : kRoom;
  const size_t total = room + size;
  void *memory =
      std::aligned_alloc(kSectionAlignment, (total / kSectionAlignment + 1) * kSectionAlignment);
  auto *file = static_cast<std::byte *>(memory);
  std::memset(file, 0, room);
  std::memcpy(file + room, data, size);
  if (!whole) {
    const Header header = makeHeader(room, size, hashBytes(file + room, size), "fuzz");
    std::memcpy(file, &header, sizeof(header));
  }
  if (Result<Plan> plan = Plan::open(std::span(file, total)))
    use(*plan);
  std::free(memory);
  return 0;
}
