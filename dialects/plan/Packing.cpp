// The formulas of Packing.h.
#include "dialects/plan/Packing.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace moe;

using llvm::divideCeil;

int64_t moe::unitColumns(Storage element) { return infoOf(element).unitColumns; }

FailureOr<PackedGeometry> PackedGeometry::get(RankedTensorType type, plan::PackingAttr packing,
                                              llvm::function_ref<InFlightDiagnostic()> emitError) {
  auto fail = [&](const Twine &why) -> FailureOr<PackedGeometry> {
    if (emitError)
      return emitError() << why;
    return failure();
  };
  PackedGeometry g{packing.getLayout()};
  if (!type.hasStaticShape())
    return fail("has a dynamic shape");
  g.format = packing.getFormat().getFormat();
  if (g.format.element == Storage::F16)
    return fail("is packed as f16, expected f32, bf16 or codes");
  g.elementBytes = g.format.quantized() ? 0 : bytesOf(g.format.element);

  ArrayRef<int64_t> shape = type.getShape();
  if (g.layout != Layout::Rows && shape.size() < 2)
    return fail("is packed in panels, but is no matrix");
  if (g.fragments() && !g.format.quantized() && !packing.getStorage().isBF16())
    return fail("is packed in fragments, which need bf16 or codes");
  if (!shape.empty())
    g.cols = shape.back();
  if (shape.size() >= 2)
    g.rows = shape[shape.size() - 2];
  g.outer = ShapedType::getNumElements(shape.drop_back(std::min<size_t>(2, shape.size())));
  if (g.format.quantized() && g.cols % g.format.group != 0)
    return fail("is packed in groups of " + Twine(g.format.group) + ", which do not divide its " +
                Twine(g.cols) + " columns");
  const int64_t group = g.format.group;
  if (g.fragments() && g.format.quantized() && group % 64 && 64 % group && group != g.cols)
    return fail("is packed in fragments of groups of " + Twine(group) +
                ", expected a multiple or a divisor of 64, or its " + Twine(g.cols) + " columns");
  if (g.layout != Layout::Rows)
    g.unit = unitColumns(g.format.element);

  switch (g.layout) {
  case Layout::Rows:
    return g;
  case Layout::Panel:
    g.panels = divideCeil(g.rows, panelLanes);
    return g;
  case Layout::PanelGateUp:
    if (g.rows % 2)
      return fail("is packed as gate and up, but has an odd number of rows");
    g.panels = divideCeil(g.rows / 2, panelLanes / 2);
    return g;
  case Layout::PanelHeads:
    g.headDim = packing.getHeadDim();
    if (g.headDim <= 0 || g.rows % g.headDim)
      return fail("is packed by heads, but its rows are not a multiple of the head dimension");
    g.panels = g.rows / g.headDim * divideCeil(g.headDim, panelLanes);
    return g;
  case Layout::Fragments:
    g.panels = divideCeil(g.rows, stripRows);
    return g;
  case Layout::FragmentsGateUp:
    if (g.rows % 2)
      return fail("is packed as gate and up, but has an odd number of rows");
    g.panels = divideCeil(g.rows / 2, stripRows / 2);
    return g;
  }
  llvm_unreachable("unknown layout");
}

int64_t moe::groupHeadBytes(const WeightFormat &f) {
  return PackedGeometry::panelLanes * (bytesOf(f.scale) + (f.zeros ? 1 : 0));
}

int64_t moe::panelBytes(const WeightFormat &f, int64_t k) {
  const int64_t unit = unitColumns(f.element);
  const int64_t unitBytes = PackedGeometry::panelLanes * unit * bitsOf(f.element) / 8;
  if (!f.quantized())
    return divideCeil(k, unit) * unitBytes;
  return k / f.group * (groupHeadBytes(f) + divideCeil(f.group, unit) * unitBytes);
}

CodeStrip moe::codeStrip(const WeightFormat &f, int64_t k) {
  constexpr int64_t tile = 64;
  CodeStrip s;
  s.blockColumns = tile % f.group == 0 ? tile : llvm::alignTo(f.group, tile);
  s.groupsPerBlock = tile % f.group == 0 ? tile / f.group : 1;
  s.headBytes =
      s.groupsPerBlock * PackedGeometry::stripRows * (bytesOf(f.scale) + (f.zeros ? 1 : 0));
  s.tileBytes = tile * PackedGeometry::stripRows * bitsOf(f.element) / 8;
  s.blocks = divideCeil(k, s.blockColumns);
  return s;
}

int64_t PackedGeometry::panelBytes() const {
  if (fragments() && format.quantized())
    return codeStrip(format, cols).bytes();
  if (fragments())
    return columns() * stripRows * unit * elementBytes;
  return moe::panelBytes(format, cols);
}

// The scales and zeros of a row of `rows`.
static int64_t rowHeadBytes(const PackedGeometry &g) {
  return llvm::alignTo(g.groups() * (bytesOf(g.format.scale) + (g.format.zeros ? 1 : 0)), 4);
}

int64_t PackedGeometry::rowBytes() const {
  if (!format.quantized())
    return cols * elementBytes;
  return rowHeadBytes(*this) + llvm::alignTo(divideCeil(cols * bitsOf(format.element), 8), 4);
}

int64_t PackedGeometry::bytes() const {
  return layout == Layout::Rows ? outer * rows * rowBytes() : outer * panels * panelBytes();
}

int64_t PackedGeometry::packedRow(int64_t row) const {
  const int64_t half = panelRows() / 2;
  switch (layout) {
  case Layout::Rows:
    break;
  case Layout::Panel:
  case Layout::Fragments:
    return row;
  case Layout::PanelGateUp:
  case Layout::FragmentsGateUp: {
    bool up = row >= rows / 2;
    int64_t j = up ? row - rows / 2 : row;
    return j / half * panelRows() + (up ? half : 0) + j % half;
  }
  case Layout::PanelHeads:
    return row / headDim * divideCeil(headDim, panelLanes) * panelLanes + row % headDim;
  }
  llvm_unreachable("rows have no panels");
}

int64_t PackedGeometry::index(int64_t outerIndex, int64_t row, int64_t col) const {
  if (layout == Layout::Rows)
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
int64_t PackedGeometry::groupStart(int64_t outerIndex, int64_t row, int64_t group) const {
  if (fragments()) {
    CodeStrip s = codeStrip(format, cols);
    return (outerIndex * panels + packedRow(row) / stripRows) * s.bytes() +
           group / s.groupsPerBlock * s.blockBytes();
  }
  return (outerIndex * panels + packedRow(row) / panelLanes) * panelBytes() +
         group * (panelBytes() / groups());
}

PackedGeometry::CodePlace PackedGeometry::code(int64_t outerIndex, int64_t row, int64_t col) const {
  if (layout == Layout::Rows) {
    const int64_t codes = (outerIndex * rows + row) * rowBytes() + rowHeadBytes(*this);
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
                     within / unit * (panelLanes * unit * bitsOf(format.element) / 8);
  if (format.element == Storage::I4)
    return {at + lane / 32 * 64 + lane % 16 * 4 + c, lane / 16 % 2 * 4};
  return {at + lane * unit + c, 0};
}

// Of a group's scale among those of its block.
int64_t PackedGeometry::placeInHead(int64_t row, int64_t group) const {
  const int64_t r = packedRow(row) % stripRows;
  return group % codeStrip(format, cols).groupsPerBlock * stripRows + r % 8 * 2 + r / 8;
}

int64_t PackedGeometry::scale(int64_t outerIndex, int64_t row, int64_t group) const {
  if (layout == Layout::Rows)
    return (outerIndex * rows + row) * rowBytes() + group * bytesOf(format.scale);
  if (fragments())
    return groupStart(outerIndex, row, group) + placeInHead(row, group) * bytesOf(format.scale);
  return groupStart(outerIndex, row, group) + packedRow(row) % panelLanes * bytesOf(format.scale);
}

int64_t PackedGeometry::zero(int64_t outerIndex, int64_t row, int64_t group) const {
  if (layout == Layout::Rows)
    return (outerIndex * rows + row) * rowBytes() + groups() * bytesOf(format.scale) + group;
  if (fragments())
    return groupStart(outerIndex, row, group) +
           codeStrip(format, cols).groupsPerBlock * stripRows * bytesOf(format.scale) +
           placeInHead(row, group);
  return groupStart(outerIndex, row, group) + panelLanes * bytesOf(format.scale) +
         packedRow(row) % panelLanes;
}

int64_t moe::packedBytes(RankedTensorType type, plan::PackingAttr packing) {
  FailureOr<PackedGeometry> geometry = PackedGeometry::get(type, packing);
  assert(succeeded(geometry) && "the packing does not fit the type");
  return geometry->bytes();
}
