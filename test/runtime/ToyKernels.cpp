#include "test/runtime/ToyKernels.h"

#include "runtime/device/cpu/KernelAbi.h"

// The linker collects the section and names its ends.
#define MOE_TOY_KERNEL __attribute__((section("moe_toy_kernels"), noinline, used))
extern "C" const char __start_moe_toy_kernels[], __stop_moe_toy_kernels[];

namespace moe::toy {
namespace {

using cpu::StepInfo;

// operands: tokens, positions, sequences, table, cache
MOE_TOY_KERNEL void store(void *const *operands, const StepInfo *step, void *, int32_t worker,
                          int32_t workers) {
  auto *tokens = static_cast<const int32_t *>(operands[0]);
  auto *positions = static_cast<const int32_t *>(operands[1]);
  auto *sequences = static_cast<const int32_t *>(operands[2]);
  auto *table = static_cast<const int32_t *>(operands[3]);
  auto *cache = static_cast<int32_t *>(operands[4]);
  for (int32_t i = worker; i < step->tokens; i += workers) {
    int32_t page = table[int64_t(sequences[i]) * step->tableStride + positions[i] / pageInts];
    cache[int64_t(page) * pageInts + positions[i] % pageInts] = tokens[i];
  }
}

// operands: positions, sequences, table, cache, rows, logits
MOE_TOY_KERNEL void head(void *const *operands, const StepInfo *step, void *, int32_t worker,
                         int32_t workers) {
  auto *positions = static_cast<const int32_t *>(operands[0]);
  auto *sequences = static_cast<const int32_t *>(operands[1]);
  auto *table = static_cast<const int32_t *>(operands[2]);
  auto *cache = static_cast<const int32_t *>(operands[3]);
  auto *rows = static_cast<const int32_t *>(operands[4]);
  auto *logits = static_cast<int32_t *>(operands[5]); // bits of floats, which would be constants
  for (int32_t r = worker; r < step->rows; r += workers) {
    int32_t i = rows[r], sum = 0;
    for (int32_t p = 0; p <= positions[i]; ++p) {
      int32_t page = table[int64_t(sequences[i]) * step->tableStride + p / pageInts];
      sum = (sum + cache[int64_t(page) * pageInts + p % pageInts]) % (26 * 41);
    }
    int32_t next = nextToken(sum);
    for (int32_t v = 0; v < vocab; ++v)
      logits[int64_t(r) * vocab + v] = v == next ? 0x41000000 : 0; // 8.0
  }
}

} // namespace

Code code() {
  auto offset = [](auto *kernel) {
    return uint64_t(reinterpret_cast<const char *>(kernel) - __start_moe_toy_kernels);
  };
  return {{reinterpret_cast<const std::byte *>(__start_moe_toy_kernels),
           size_t(__stop_moe_toy_kernels - __start_moe_toy_kernels)},
          offset(store),
          offset(head)};
}

} // namespace moe::toy
