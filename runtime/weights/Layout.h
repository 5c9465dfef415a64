// Where each element of a weight lies, and how many bytes a weight takes.
//
// A weight is a stack of matrices `[n, k]` (its last two dimensions; all before them are outer). In
// the `panel` layouts the rows of each matrix are placed in panels of 64 lanes, and each panel is
// stored with the lanes innermost, so that one vector load holds one column of many rows:
//
//   element (o, row, col) is at ((((o * panels + panel) * columns + col / unit) * 64 + lane)
//                                * unit + col % unit) * sizeof(storage)
//   unit    = 1 for f32, 2 for bf16 (pairs for dot-product instructions)
//   columns = ceil(k / unit)
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
//
// Codes of quantized formats (Format.h) lie in panels too. Columns come group by group, each led by
// its scales, so that a panel is still one stream; the group divides k:
//
//   panel  = group...
//   group  = 64 scales | 64 zeros of a byte, where the format has zeros | codes
//   codes  = unit..., each of `unit` columns: 4 of I8 (256 bytes), 4 of I4 (128), 2 of F8E4M3 (128)
//   I8     byte lane * 4 + c of the unit, with c the column in the unit
//   F8E4M3 byte lane * 2 + c
//   I4     byte lane / 32 * 64 + lane % 16 * 4 + c; the upper half of it if lane / 16 is odd: one
//          vector load has two vectors of unsigned bytes after a mask, and a shift and a mask
//
// In `fragments` of codes the columns of a strip come block by block: 64 columns where the groups
// divide 64, otherwise those of a group, which are then a multiple of 64 or, with one group a row,
// are padded to one.
//
//   strip = block...
//   block = 16 scales and then 16 zeros of a byte, where the format has zeros, for each of its
//           groups; all scales come before all zeros | tiles of 64 columns
//   tile  = 512 bytes of I4, 1024 of I8 and F8E4M3; rows and columns as in the tiles above, four of
//           which lie side by side: j = c / 16 is the number of one of them, and
//           pair = r / 8 + c % 16 / 8 * 2
//   scale of row r at place r % 8 * 2 + r / 8 of the 16, and so is its zero
//   I4     byte lane * 16 + j * 4 + c % 2 * 2 + pair / 2, the upper half of it if pair is odd: two
//          codes that a register holds as a pair are 16 bits apart
//   others byte j / 2 * 512 + lane * 16 + j % 2 * 8 + pair / 2 * 4 + c % 2 * 2 + pair % 2
//
// In `rows` each row has its scales, its zeros, room up to a multiple of 4 bytes, its codes in
// order (I4: column 2 i in the lower half of byte i), and room up to a multiple of 4 bytes. Rows
// that pad a panel have scales of zero, columns that pad a unit any code.
#ifndef MOE_RUNTIME_WEIGHTS_LAYOUT_H
#define MOE_RUNTIME_WEIGHTS_LAYOUT_H

#include "runtime/weights/Format.h"

#include <span>

namespace moe {

// Bytes of a panel of 64 rows by k columns, of the scales and zeros that lead one of its groups,
// and of the codes or elements of a unit of columns.
int64_t panelBytes(const WeightFormat &format, int64_t k);
int64_t groupHeadBytes(const WeightFormat &format);
int64_t unitBytes(Storage element);
// Bytes of the scales and zeros that lead a row of k columns of `rows`, none where elements are
// stored as they are, and of the whole row.
int64_t rowHeadBytes(const WeightFormat &format, int64_t k);
int64_t rowBytes(const WeightFormat &format, int64_t k);

// A strip of fragments of codes.
struct CodeStrip {
  int64_t blockColumns, groupsPerBlock;
  int64_t headBytes, tileBytes; // of a block's scales and zeros; of 64 columns' codes
  int64_t blocks;               // of a strip

  int64_t tiles() const { return blockColumns / 64; } // of a block
  int64_t blockBytes() const { return headBytes + tiles() * tileBytes; }
  int64_t bytes() const { return blocks * blockBytes(); }
};
CodeStrip codeStrip(const WeightFormat &format, int64_t k);

// The layout of one weight: its kind, shape and format, and the places that follow from them. Rows
// and columns are those of the weight, and all places count from its first byte or element.
struct WeightLayout {
  enum class Kind { Rows, Panel, PanelGateUp, PanelHeads, Fragments, FragmentsGateUp };
  static constexpr int64_t panelLanes = 64;
  static constexpr int64_t stripRows = 16, tileColumns = 16;

  Kind kind = Kind::Rows;
  WeightFormat format;
  int64_t outer = 1;   // matrices
  int64_t rows = 1;    // n
  int64_t cols = 1;    // k
  int64_t headDim = 0; // of PanelHeads
  int64_t panels = 0;  // of one matrix, panels or strips; 0 for Rows
  int64_t unit = 1;    // columns that lie together

  // Of a weight of a shape. Any numbers may come: where the shape has no such layout, or takes more
  // bytes than any machine holds, an InvalidArgument says why, in words that go on after the
  // weight's name. All that the methods below compute then fits.
  static Result<WeightLayout> create(std::span<const int64_t> shape, const WeightFormat &format,
                                     Kind kind, int64_t headDim = 0);

  bool fragments() const { return kind == Kind::Fragments || kind == Kind::FragmentsGateUp; }
  // Rows of a panel or strip.
  int64_t panelRows() const { return fragments() ? stripRows : panelLanes; }
  // Columns of a panel or strip, in units. Not of codes.
  int64_t columns() const {
    return fragments() ? (cols + 63) / 64 * (64 / unit) : (cols + unit - 1) / unit;
  }
  // Bytes of an element; not of codes.
  int64_t elementBytes() const { return bytesOf(format.element); }
  // Bytes of one panel or strip, of a row of Rows, and of the whole weight.
  int64_t panelBytes() const;
  int64_t rowBytes() const { return moe::rowBytes(format, cols); }
  int64_t bytes() const;

  // Row of a matrix -> panel * panelRows() + lane. Not for Rows.
  int64_t packedRow(int64_t row) const;
  // Place of an element, counted in elements. Not of codes.
  int64_t index(int64_t outerIndex, int64_t row, int64_t col) const;

  // Of codes: how many groups a row has, and places in bytes of what belongs to an element or to a
  // group of a row. A code of I4 is `shift` bits up in its byte.
  struct CodePlace {
    int64_t byte, shift;
  };
  int64_t groups() const { return cols / format.group; }
  CodePlace code(int64_t outerIndex, int64_t row, int64_t col) const;
  int64_t scale(int64_t outerIndex, int64_t row, int64_t group) const;
  int64_t zero(int64_t outerIndex, int64_t row, int64_t group) const;

private:
  int64_t groupStart(int64_t outerIndex, int64_t row, int64_t group) const;
  int64_t placeInHead(int64_t row, int64_t group) const;
};

// "rows", "panel", "panel_gate_up", "panel_heads", "fragments", "fragments_gate_up": in plans.
const char *nameOf(WeightLayout::Kind kind);
std::span<const char *const> layoutNames();
std::optional<WeightLayout::Kind> layoutNamed(std::string_view name);

} // namespace moe

#endif
