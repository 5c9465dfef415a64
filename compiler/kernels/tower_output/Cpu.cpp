// The last norm of a tower and the pixel shuffle, a share of the rows for each worker.
#include "compiler/kernels/layer_norm/Cpu.h"
#include "compiler/kernels/tower_output/TowerOutput.h"

namespace moe::codegen {

void CpuTowerOutput::emit(CpuKernel &k) const {
  const LayerNormWeights weights{k.operand(Operand::Norm), k.operand(Operand::NormBias), hidden,
                                 eps};
  const ActivationRow row{format, 4 * hidden};
  Ptr h = k.operand(Operand::H), x = k.operand(Operand::X);
  Ptr floats = k.scratch(padded(4 * hidden) * 4);
  for (int64_t c = 4 * hidden; c < padded(4 * hidden); ++c)
    (floats + c * 4).store(k.f32(0));
  auto [first, last] = k.share(k.tokens * rows());
  k.loop(first, last, 1, [&](Val r) {
    Val tile = r / rows(), at = r % k.i64(rows());
    Val corner = tile * (grid * grid + 1) + at / (grid / 2) * (2 * grid) + at % k.i64(grid / 2) * 2;
    for (int64_t patch = 0; patch < 4; ++patch) {
      Val from = corner + (patch / 2 * grid + patch % 2);
      layerNorm(k, h + from * (padded(hidden) * 4), weights,
                [&](Val c, Val y) { (floats + patch * hidden * 4 + c * 4).store(y); });
    }
    k.activationRow(floats, row, x + r * row.bytes());
  });
}

} // namespace moe::codegen
