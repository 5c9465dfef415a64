// Computes places in tiles.
#include "compiler/kernels/attention/CudaTile.h"

using namespace mlir;

namespace moe::codegen {

Val offsetIn(TileLayout layout, Val row, Val chunk, bool firstPanel) {
  int64_t period = layout.period();
  Val turn = row / (8 / period) % period, at = row * layout.rowBytes();
  if (firstPanel || layout.panels() == 1)
    return at + (chunk ^ turn) * 16;
  return chunk / period * layout.panelBytes() + at + (chunk % period ^ turn) * 16;
}

} // namespace moe::codegen
