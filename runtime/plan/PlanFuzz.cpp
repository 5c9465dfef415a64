// Feeds arbitrary bytes to Plan::open. The first byte says whether they are a whole file, or an
// index whose header is made to match, since no fuzzer guesses hashes.
#include "runtime/plan/Format.h"
#include "runtime/plan/Plan.h"

#include <cstdlib>
#include <cstring>

using namespace moe;

namespace {
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

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0)
    return 0;
  const bool whole = *data++ & 1;
  --size;
  const size_t room = whole ? 0 : 4 * kSectionAlignment;
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
