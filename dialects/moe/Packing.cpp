// The formulas of Packing.h.
#include "dialects/moe/Packing.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace moe;

using llvm::divideCeil;

FailureOr<PackedGeometry> PackedGeometry::get(RankedTensorType type, PackingAttr packing,
                                              llvm::function_ref<InFlightDiagnostic()> emitError) {
  auto fail = [&](const Twine &why) -> FailureOr<PackedGeometry> {
    if (emitError)
      return emitError() << why;
    return failure();
  };
  PackedGeometry g{packing.getLayout()};
  if (!type.hasStaticShape())
    return fail("has a dynamic shape");
  if (!packing.getStorage().isF32() && !packing.getStorage().isBF16())
    return fail("is packed as neither f32 nor bf16");
  g.elementBytes = packing.getStorage().getIntOrFloatBitWidth() / 8;

  ArrayRef<int64_t> shape = type.getShape();
  if (g.layout != Layout::Rows && shape.size() < 2)
    return fail("is packed in panels, but is no matrix");
  if (g.fragments() && !packing.getStorage().isBF16())
    return fail("is packed in fragments, which need bf16");
  if (!shape.empty())
    g.cols = shape.back();
  if (shape.size() >= 2)
    g.rows = shape[shape.size() - 2];
  g.outer = ShapedType::getNumElements(shape.drop_back(std::min<size_t>(2, shape.size())));
  if (g.layout != Layout::Rows)
    g.group = packing.getStorage().isBF16() ? 2 : 1;

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

int64_t PackedGeometry::bytes() const {
  if (layout == Layout::Rows)
    return outer * rows * cols * elementBytes;
  return outer * panels * panelBytes();
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
    int64_t tile = (outerIndex * panels + panel) * (columns() * group / tileColumns);
    int64_t c = col % tileColumns, thread = lane % 8 * 4 + c % 8 / 2;
    return ((tile + col / tileColumns) * 32 + thread) * 8 + (lane / 8 + c / 8 * 2) * 2 + c % 2;
  }
  return (((outerIndex * panels + panel) * columns() + col / group) * panelLanes + lane) * group +
         col % group;
}

int64_t moe::packedBytes(RankedTensorType type, PackingAttr packing) {
  FailureOr<PackedGeometry> geometry = PackedGeometry::get(type, packing);
  assert(succeeded(geometry) && "the packing does not fit the type");
  return geometry->bytes();
}
