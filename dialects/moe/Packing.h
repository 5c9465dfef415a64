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
// In the `fragments` layouts, of 16-bit elements, the rows are placed in strips of 16, and a strip
// is a run of tiles of 16 columns, 512 bytes each, whose columns are padded to a multiple of 64. A
// tile is what a warp holds as the first operand of mma.sync.m16n8k16, 16 bytes a lane: lane 4 g +
// q has the rows g and g + 8 at the columns 2 q, 2 q + 1, then at 2 q + 8, 2 q + 9.
//
//   element (o, row, col), at place r of strip s and c of tile t (of k / 16), is at
//   ((o * strips + s) * tiles + t) * 512 + (r % 8 * 4 + c % 8 / 2) * 16 + (r / 8 + c / 8 * 2) * 4
//     + c % 2 * 2
//
//   fragments          row / 16, row % 16                          ceil(n / 16)
//   fragments_gate_up  gate j / 8, j % 8; up j / 8, 8 + j % 8      ceil(i / 8)
//
// Places that no element has are zero. `rows` is plain row-major order, of any rank.
#ifndef MOE_DIALECTS_MOE_PACKING_H
#define MOE_DIALECTS_MOE_PACKING_H

#include "dialects/moe/MoeDialect.h"

namespace moe {

struct PackedGeometry {
  static constexpr int64_t panelLanes = 64;
  static constexpr int64_t stripRows = 16, tileColumns = 16;

  Layout layout;
  int64_t outer = 1;   // matrices
  int64_t rows = 1;    // n
  int64_t cols = 1;    // k
  int64_t headDim = 0; // of panel_heads
  int64_t panels = 0;  // or strips, of one matrix; 0 for `rows`
  int64_t group = 1;   // columns that lie together
  int64_t elementBytes = 4;

  // Fails where the packing does not fit the type; `emitError` then starts the message.
  static mlir::FailureOr<PackedGeometry>
  get(mlir::RankedTensorType type, PackingAttr packing,
      llvm::function_ref<mlir::InFlightDiagnostic()> emitError = {});

  bool fragments() const {
    return layout == Layout::Fragments || layout == Layout::FragmentsGateUp;
  }
  // Of a panel or strip.
  int64_t panelRows() const { return fragments() ? stripRows : panelLanes; }
  // Columns of a panel or strip, in groups.
  int64_t columns() const {
    return fragments() ? (cols + 63) / 64 * (64 / group) : (cols + group - 1) / group;
  }
  // Of one panel or strip, and of the whole weight, in bytes.
  int64_t panelBytes() const { return columns() * panelRows() * group * elementBytes; }
  int64_t bytes() const;

  // Row of a matrix -> panel * panelRows() + lane. Not for `rows`.
  int64_t packedRow(int64_t row) const;
  // Place of an element, counted in elements.
  int64_t index(int64_t outerIndex, int64_t row, int64_t col) const;
};

// Bytes that `type` needs when it is packed so; the packing must fit (see PackedGeometry::get).
int64_t packedBytes(mlir::RankedTensorType type, PackingAttr packing);

} // namespace moe

#endif
