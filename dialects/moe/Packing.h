// The bytes of a packed weight: where each element lies.
//
// A weight is a stack of matrices `[n, k]` (its last two dimensions; all before them are outer). In
// the `panel` layouts the rows of each matrix are placed in panels of 64 lanes, and each panel is
// stored with the lanes innermost, so that one vector load holds one column of many rows:
//
//   element (o, row, col) is at ((((o * panels + panel) * columns + col / group) * 64 + lane)
//                                * group + col % group) * sizeof(storage)
//   group   = 1 for f32, 2 for bf16 (pairs for dot-product instructions)
//   columns = ceil(k / group)
//
// and the layout says which panel and lane a row has, and how many panels a matrix has:
//
//   panel          row / 64, row % 64                          ceil(n / 64)
//   panel_gate_up  with i = n / 2; gate row j is row j, up row j is row i + j:
//                  gate j / 32, j % 32; up j / 32, 32 + j % 32    ceil(i / 32)
//   panel_heads    with h = head_dim, s = ceil(h / 64) panels a head, c = row % h:
//                  row / h * s + c / 64, c % 64                n / h * s
//
// Places that no element has are zero. `rows` is plain row-major order, of any rank.
#ifndef MOE_DIALECTS_MOE_PACKING_H
#define MOE_DIALECTS_MOE_PACKING_H

#include "dialects/moe/MoeDialect.h"

namespace moe {

struct PackedGeometry {
  static constexpr int64_t panelLanes = 64;

  Layout layout;
  int64_t outer = 1;   // matrices
  int64_t rows = 1;    // n
  int64_t cols = 1;    // k
  int64_t headDim = 0; // of panel_heads
  int64_t panels = 0;  // of one matrix; 0 for `rows`
  int64_t group = 1;   // columns that lie together
  int64_t elementBytes = 4;

  // Fails where the packing does not fit the type; `emitError` then starts the message.
  static mlir::FailureOr<PackedGeometry>
  get(mlir::RankedTensorType type, PackingAttr packing,
      llvm::function_ref<mlir::InFlightDiagnostic()> emitError = {});

  // Columns of a panel, in groups.
  int64_t columns() const { return (cols + group - 1) / group; }
  // Of one panel, and of the whole weight, in bytes.
  int64_t panelBytes() const { return columns() * panelLanes * group * elementBytes; }
  int64_t bytes() const;

  // Row of a matrix -> panel * 64 + lane. Only for the panel layouts.
  int64_t packedRow(int64_t row) const;
  // Place of an element, counted in elements.
  int64_t index(int64_t outerIndex, int64_t row, int64_t col) const;
};

// Bytes that `type` needs when it is packed so; the packing must fit (see PackedGeometry::get).
int64_t packedBytes(mlir::RankedTensorType type, PackingAttr packing);

} // namespace moe

#endif
