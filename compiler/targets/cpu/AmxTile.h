// Tiles of products for processors with AMX, whose instructions multiply 16 rows of activations, or
// fewer, with 16 rows of a panel, 32 columns of bf16 or 64 codes at a time.
//
//   tmm0..3  sums: tokens by 16 rows of the panel each
//   tmm4     activations as they lie in their rows, 64 bytes of each
//   tmm5     weights as they lie in a panel: 16 units of 4 bytes of 16 rows
//   tmm6, 7  the same of the last step, of fewer units
//
// A product of bf16 takes these tiles whatever the number of tokens: TDPBF16PS sums even and odd
// products apart before it adds both, so that no other instruction gives the same bits. Sums of
// codes are exact, and few tokens take the tiles of CodeTile.h.
#ifndef MOE_COMPILER_TARGETS_CPU_AMXTILE_H
#define MOE_COMPILER_TARGETS_CPU_AMXTILE_H

#include "compiler/targets/cpu/CodeTile.h"

namespace moe::codegen {

// Row i is at `base + stride * ids[i]`.
struct AmxRows {
  Ptr base;
  Val stride; // bytes
  Ptr ids;    // int32
};

struct AmxOperands {
  AmxRows rows, outs;
  Val count; // at most 16
  Ptr panel;
  Val steps; // groups of a row, or pairs of columns
  std::optional<FetchAhead> ahead;
};

// Whether a product takes these tiles, and the number of tokens up to which it takes others.
bool takesAmx(const CpuTarget &target, const WeightFormat &format);
int64_t tokensBelowAmx(const CpuTarget &target, const WeightFormat &format);

// Emits the tile at the insertion point, the start of a function.
void emitAmxTile(CpuKernel &k, const WeightFormat &format, const AmxOperands &operands, bool add);

} // namespace moe::codegen

#endif
