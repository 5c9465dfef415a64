// The formulas of Layout.h.
#include "runtime/weights/Layout.h"
#include "runtime/Status.h"

#include <iterator>

namespace moe {
namespace {

// Above what any machine has. Dimensions, their products and groups stay below it, and what a row
// of a panel takes is at most 2^13 times its columns, so that one product of 128 bits is enough.
constexpr int64_t kMost = int64_t(1) << 48;
__extension__ typedef __int128 Wide;

// In the order of WeightLayout::Kind.
constexpr const char *kNames[] = {"rows",        "panel",     "panel_gate_up",
                                  "panel_heads", "fragments", "fragments_gate_up"};

constexpr int64_t divideUp(int64_t a, int64_t b) { return a / b + (a % b != 0); }
constexpr int64_t alignUp(int64_t a, int64_t b) { return divideUp(a, b) * b; }

Error invalid(const std::string &why) { return {Code::InvalidArgument, why}; }

} // namespace

const char *nameOf(WeightLayout::Kind kind) { return kNames[size_t(kind)]; }
std::span<const char *const> layoutNames() { return kNames; }

std::optional<WeightLayout::Kind> layoutNamed(std::string_view name) {
  for (size_t i = 0; i < std::size(kNames); ++i)
    if (kNames[i] == name)
      return WeightLayout::Kind(i);
  return std::nullopt;
}

//===----------------------------------------------------------------------===//
// Bytes
//===----------------------------------------------------------------------===//

int64_t groupHeadBytes(const WeightFormat &f) { return WeightLayout::panelLanes * f.headBytes(); }

int64_t unitBytes(Storage element) {
  const StorageInfo &info = infoOf(element);
  return WeightLayout::panelLanes * info.unitColumns * info.bits / 8;
}

int64_t panelBytes(const WeightFormat &f, int64_t k) {
  const int64_t unit = infoOf(f.element).unitColumns, bytes = unitBytes(f.element);
  if (!f.quantized())
    return divideUp(k, unit) * bytes;
  return k / f.group * (groupHeadBytes(f) + divideUp(f.group, unit) * bytes);
}

int64_t rowHeadBytes(const WeightFormat &f, int64_t k) {
  return f.quantized() ? alignUp(k / f.group * f.headBytes(), 4) : 0;
}

int64_t rowBytes(const WeightFormat &f, int64_t k) {
  const int64_t bytes = divideUp(k * bitsOf(f.element), 8);
  return f.quantized() ? rowHeadBytes(f, k) + alignUp(bytes, 4) : bytes;
}

CodeStrip codeStrip(const WeightFormat &f, int64_t k) {
  constexpr int64_t tile = 64;
  CodeStrip s;
  s.blockColumns = tile % f.group == 0 ? tile : alignUp(f.group, tile);
  s.groupsPerBlock = tile % f.group == 0 ? tile / f.group : 1;
  s.headBytes = s.groupsPerBlock * WeightLayout::stripRows * f.headBytes();
  s.tileBytes = tile * WeightLayout::stripRows * bitsOf(f.element) / 8;
  s.blocks = divideUp(k, s.blockColumns);
  return s;
}

int64_t WeightLayout::panelBytes() const {
  if (!fragments())
    return moe::panelBytes(format, cols);
  if (format.quantized())
    return codeStrip(format, cols).bytes();
  return columns() * stripRows * unit * elementBytes();
}

//===----------------------------------------------------------------------===//
// Which layouts there are
//===----------------------------------------------------------------------===//

Result<WeightLayout> WeightLayout::create(std::span<const int64_t> shape,
                                          const WeightFormat &format, Kind kind, int64_t headDim) {
  const StorageInfo &info = infoOf(format.element);
  if (!info.weights)
    return invalid("is packed as " + std::string(info.name) + ", expected f32, bf16 or codes");
  if (info.codes != format.quantized() || format.group < 0 || infoOf(format.scale).codes ||
      (format.zeros && info.mostZero == 0))
    return invalid("is packed as " + nameOf(format) + ", which is no format");
  int64_t elements = 1;
  for (int64_t dim : shape) {
    if (dim < 0)
      return invalid("has the dimension " + std::to_string(dim));
    if (dim > kMost || Wide(elements) * dim > kMost)
      return invalid("has more elements than any machine holds");
    elements *= dim;
  }

  WeightLayout l;
  l.kind = kind;
  l.format = format;
  if (kind != Kind::Rows && shape.size() < 2)
    return invalid("is packed in panels, but is no matrix");
  if (l.fragments() && !format.quantized() && info.bits != 16)
    return invalid("is packed in fragments, which need bf16 or codes");
  if (!shape.empty())
    l.cols = shape.back();
  if (shape.size() >= 2)
    l.rows = shape[shape.size() - 2];
  for (size_t d = 0; d + 2 < shape.size(); ++d)
    l.outer *= shape[d];
  const int64_t group = format.group;
  if (format.quantized() && (group > kMost || l.cols % group != 0))
    return invalid("is packed in groups of " + std::to_string(group) +
                   ", which do not divide its " + std::to_string(l.cols) + " columns");
  if (l.fragments() && format.quantized() && group % 64 && 64 % group && group != l.cols)
    return invalid("is packed in fragments of groups of " + std::to_string(group) +
                   ", expected a multiple or a divisor of 64, or its " + std::to_string(l.cols) +
                   " columns");
  if (kind != Kind::Rows)
    l.unit = info.unitColumns;

  switch (kind) {
  case Kind::Rows:
    break;
  case Kind::Panel:
  case Kind::Fragments:
    l.panels = divideUp(l.rows, l.panelRows());
    break;
  case Kind::PanelGateUp:
  case Kind::FragmentsGateUp:
    if (l.rows % 2)
      return invalid("is packed as gate and up, but has an odd number of rows");
    l.panels = divideUp(l.rows / 2, l.panelRows() / 2);
    break;
  case Kind::PanelHeads:
    if (headDim <= 0 || l.rows % headDim)
      return invalid("is packed by heads, but its rows are not a multiple of the head dimension");
    l.headDim = headDim;
    l.panels = l.rows / headDim * divideUp(headDim, panelLanes);
    break;
  }
  const bool rowMajor = kind == Kind::Rows;
  if (Wide(l.outer * (rowMajor ? l.rows : l.panels)) * (rowMajor ? l.rowBytes() : l.panelBytes()) >
      kMost)
    return invalid("has more bytes than any machine holds");
  return l;
}

//===----------------------------------------------------------------------===//
// Places
//===----------------------------------------------------------------------===//

int64_t WeightLayout::bytes() const {
  return kind == Kind::Rows ? outer * rows * rowBytes() : outer * panels * panelBytes();
}

int64_t WeightLayout::packedRow(int64_t row) const {
  const int64_t half = panelRows() / 2;
  switch (kind) {
  case Kind::Rows:
    break;
  case Kind::Panel:
  case Kind::Fragments:
    return row;
  case Kind::PanelGateUp:
  case Kind::FragmentsGateUp: {
    bool up = row >= rows / 2;
    int64_t j = up ? row - rows / 2 : row;
    return j / half * panelRows() + (up ? half : 0) + j % half;
  }
  case Kind::PanelHeads:
    return row / headDim * divideUp(headDim, panelLanes) * panelLanes + row % headDim;
  }
  assert(false && "rows have no panels");
  return 0;
}

int64_t WeightLayout::index(int64_t outerIndex, int64_t row, int64_t col) const {
  if (kind == Kind::Rows)
    return (outerIndex * rows + row) * cols + col;
  int64_t place = packedRow(row), panel = place / panelRows(), lane = place % panelRows();
  if (fragments()) {
    int64_t tile = (outerIndex * panels + panel) * (columns() * unit / tileColumns);
    int64_t c = col % tileColumns, thread = lane % 8 * 4 + c % 8 / 2;
    return ((tile + col / tileColumns) * 32 + thread) * 8 + (lane / 8 + c / 8 * 2) * 2 + c % 2;
  }
  return (((outerIndex * panels + panel) * columns() + col / unit) * panelLanes + lane) * unit +
         col % unit;
}

// Where the group of a row's panel begins, or the block of its strip.
int64_t WeightLayout::groupStart(int64_t outerIndex, int64_t row, int64_t group) const {
  if (fragments()) {
    CodeStrip s = codeStrip(format, cols);
    return (outerIndex * panels + packedRow(row) / stripRows) * s.bytes() +
           group / s.groupsPerBlock * s.blockBytes();
  }
  return (outerIndex * panels + packedRow(row) / panelLanes) * panelBytes() +
         group * (panelBytes() / groups());
}

WeightLayout::CodePlace WeightLayout::code(int64_t outerIndex, int64_t row, int64_t col) const {
  if (kind == Kind::Rows) {
    const int64_t codes = (outerIndex * rows + row) * rowBytes() + rowHeadBytes(format, cols);
    if (format.element == Storage::I4)
      return {codes + col / 2, col % 2 * 4};
    return {codes + col, 0};
  }
  if (fragments()) {
    const CodeStrip s = codeStrip(format, cols);
    const int64_t r = packedRow(row) % stripRows, within = col % s.blockColumns;
    const int64_t k16 = within % 64 / tileColumns, c = within % tileColumns;
    const int64_t lane = r % 8 * 4 + c % 8 / 2, pair = r / 8 + c / 8 * 2;
    const int64_t at =
        groupStart(outerIndex, row, col / format.group) + s.headBytes + within / 64 * s.tileBytes;
    if (format.element == Storage::I4)
      return {at + lane * 16 + k16 * 4 + c % 2 * 2 + pair / 2, pair % 2 * 4};
    return {at + k16 / 2 * 512 + lane * 16 + k16 % 2 * 8 + pair / 2 * 4 + c % 2 * 2 + pair % 2, 0};
  }
  const int64_t lane = packedRow(row) % panelLanes, within = col % format.group, c = within % unit;
  const int64_t at = groupStart(outerIndex, row, col / format.group) + groupHeadBytes(format) +
                     within / unit * unitBytes(format.element);
  if (format.element == Storage::I4)
    return {at + lane / 32 * 64 + lane % 16 * 4 + c, lane / 16 % 2 * 4};
  return {at + lane * unit + c, 0};
}

// The place of a group's scale among those of its block.
int64_t WeightLayout::placeInHead(int64_t row, int64_t group) const {
  const int64_t r = packedRow(row) % stripRows;
  return group % codeStrip(format, cols).groupsPerBlock * stripRows + r % 8 * 2 + r / 8;
}

int64_t WeightLayout::scale(int64_t outerIndex, int64_t row, int64_t group) const {
  if (kind == Kind::Rows)
    return (outerIndex * rows + row) * rowBytes() + group * bytesOf(format.scale);
  if (fragments())
    return groupStart(outerIndex, row, group) + placeInHead(row, group) * bytesOf(format.scale);
  return groupStart(outerIndex, row, group) + packedRow(row) % panelLanes * bytesOf(format.scale);
}

int64_t WeightLayout::zero(int64_t outerIndex, int64_t row, int64_t group) const {
  if (kind == Kind::Rows)
    return (outerIndex * rows + row) * rowBytes() + groups() * bytesOf(format.scale) + group;
  if (fragments())
    return groupStart(outerIndex, row, group) +
           codeStrip(format, cols).groupsPerBlock * stripRows * bytesOf(format.scale) +
           placeInHead(row, group);
  return groupStart(outerIndex, row, group) + panelLanes * bytesOf(format.scale) +
         packedRow(row) % panelLanes;
}

} // namespace moe
