#include "test/runtime/ToyKernels.h"

#include "runtime/device/cpu/KernelAbi.h"
#include "runtime/device/cuda/TestKernels.h"

// The linker collects the section and names its ends.
#define MOE_TOY_KERNEL __attribute__((section("moe_toy_kernels"), noinline, used))
// NOLINTNEXTLINE(bugprone-reserved-identifier)
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

// operands: tokens, positions, sequences, table, cache, images, image_rows
MOE_TOY_KERNEL void storeImages(void *const *operands, const StepInfo *step, void *, int32_t worker,
                                int32_t workers) {
  auto *tokens = static_cast<const int32_t *>(operands[0]);
  auto *positions = static_cast<const int32_t *>(operands[1]);
  auto *sequences = static_cast<const int32_t *>(operands[2]);
  auto *table = static_cast<const int32_t *>(operands[3]);
  auto *cache = static_cast<int32_t *>(operands[4]);
  auto *images = static_cast<const float *>(operands[5]);
  auto *imageRows = static_cast<const int32_t *>(operands[6]);
  for (int32_t i = worker; i < step->tokens; i += workers) {
    int32_t page = table[int64_t(sequences[i]) * step->tableStride + positions[i] / pageInts];
    cache[int64_t(page) * pageInts + positions[i] % pageInts] =
        imageRows[i] < 0 ? tokens[i] : int32_t(images[int64_t(imageRows[i]) * channels]);
  }
}

// operands: tiles, image_rows
MOE_TOY_KERNEL void see(void *const *operands, const StepInfo *step, void *, int32_t worker,
                        int32_t workers) {
  auto *tiles = static_cast<const uint8_t *>(operands[0]);
  auto *rows = static_cast<float *>(operands[1]);
  for (int32_t tile = worker; tile < step->tokens; tile += workers) {
    int32_t sum = 0;
    for (int32_t i = 0; i < tileBytes; ++i)
      sum += tiles[int64_t(tile) * tileBytes + i];
    for (int32_t row = 0; row < rowsPerTile; ++row)
      for (int32_t c = 0; c < channels; ++c)
        rows[(int64_t(tile) * rowsPerTile + row) * channels + c] = float(rowOfTile(sum, row));
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
          offset(head),
          offset(storeImages),
          offset(see)};
}

static const char headKernel[] = R"(
.visible .entry head(.param .u64 positions, .param .u64 sequences, .param .u64 table,
                     .param .u64 cache, .param .u64 rows, .param .u64 logits, .param .u64 info)
{
  .reg .pred %p; .reg .b32 %i, %n, %step, %stride, %last, %base, %q, %sum, %v, %t<4>;
  .reg .b64 %positions, %sequences, %table, %cache, %rows, %logits, %info, %d<3>; .reg .f32 %f;
  ld.param.u64 %positions, [positions]; ld.param.u64 %sequences, [sequences];
  ld.param.u64 %table, [table]; ld.param.u64 %cache, [cache]; ld.param.u64 %rows, [rows];
  ld.param.u64 %logits, [logits]; ld.param.u64 %info, [info];
  ld.global.u32 %n, [%info+4]; ld.global.u32 %stride, [%info+8];
  mov.u32 %t0, %tid.x; mov.u32 %t1, %ctaid.x; mov.u32 %t2, %ntid.x; mov.u32 %t3, %nctaid.x;
  mad.lo.s32 %i, %t1, %t2, %t0;
  mul.lo.s32 %step, %t2, %t3;
LOOP:
  setp.ge.s32 %p, %i, %n;
  @%p bra END;
  mul.wide.s32 %d0, %i, 4;
  add.s64 %d1, %rows, %d0; ld.global.u32 %t0, [%d1];
  mul.wide.s32 %d0, %t0, 4;
  add.s64 %d1, %positions, %d0; ld.global.u32 %last, [%d1];
  add.s64 %d1, %sequences, %d0; ld.global.u32 %t0, [%d1];
  mul.lo.s32 %base, %t0, %stride;
  mov.u32 %sum, 0; mov.u32 %q, 0;
SUM:
  shr.u32 %t0, %q, 6; add.s32 %t0, %base, %t0;
  mul.wide.s32 %d2, %t0, 4;
  add.s64 %d2, %table, %d2; ld.global.u32 %t1, [%d2];
  and.b32 %t2, %q, 63; mad.lo.s32 %t2, %t1, 64, %t2;
  mul.wide.s32 %d2, %t2, 4;
  add.s64 %d2, %cache, %d2; ld.global.u32 %t3, [%d2];
  add.s32 %sum, %sum, %t3;
  add.s32 %q, %q, 1;
  setp.le.s32 %p, %q, %last;
  @%p bra SUM;
  rem.s32 %sum, %sum, 1066;
  rem.s32 %t0, %sum, 41; rem.s32 %t1, %sum, 26; add.s32 %t1, %t1, 97;
  setp.eq.s32 %p, %t0, 0;
  selp.b32 %t1, 257, %t1, %p;
  mov.u32 %v, 0;
  mul.wide.s32 %d0, %i, 1044;
  add.s64 %d0, %logits, %d0;
VALUES:
  setp.eq.s32 %p, %v, %t1;
  selp.f32 %f, 0f41000000, 0f00000000, %p;
  st.global.f32 [%d0], %f;
  add.s64 %d0, %d0, 4;
  add.s32 %v, %v, 1;
  setp.lt.s32 %p, %v, 267;
  @%p bra VALUES;
  add.s32 %i, %i, %step;
  bra LOOP;
END:
  ret;
}
)";

std::span<const std::byte> ptx() {
  static const std::string text =
      ".version 7.8\n.target sm_80\n.address_size 64\n" + cuda::storeKernel("") + headKernel + '\0';
  return std::as_bytes(std::span(text));
}

} // namespace moe::toy
