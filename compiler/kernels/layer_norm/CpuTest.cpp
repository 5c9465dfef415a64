// Layer norms, and what leaves a tower, on every processor that this machine has or emulates,
// against the reference. The bits of a result depend on its row alone.
#include "compiler/kernels/TestTower.h"
#include "compiler/kernels/layer_norm/LayerNorm.h"
#include "compiler/kernels/tower_output/TowerOutput.h"

using namespace mlir;
using namespace moe;
using namespace moe::codegen;

namespace {

constexpr float kEps = 1e-5f;

class LayerNormKernel : public Kernels {
protected:
  // Rows of which one has a mean that is large beside its deviation.
  Floats rowsToNorm(int64_t rows, int64_t n) {
    Floats h = random(rows * n);
    for (int64_t c = 0; c < n; ++c)
      h[c] += 1000;
    return h;
  }
  // What one worker makes of rows, and three as well.
  template <class Contract>
  Bytes rowsFrom(const Contract &contract, int64_t tiles, int64_t bytes, const Floats &h,
                 TestWeight &norm, TestWeight &bias) {
    Bytes hs = rowsOf(h, contract.hidden, Storage::F32);
    Compiled kernel = compile(contract);
    Bytes one(bytes), three = one;
    for (auto [x, workers] : {std::pair(&one, 1), std::pair(&three, 3)})
      run(kernel,
          {{Operand::H, hs},
           {Operand::Norm, norm.bytes},
           {Operand::NormBias, bias.bytes},
           {Operand::X, *x}},
          tiles, 0, 0, workers);
    EXPECT_EQ(one, three);
    return one;
  }
  // What rounding to the rows' type loses is relative to the largest value; float32 keeps what the
  // large mean leaves.
  void expectRows(const Bytes &got, int64_t rows, const ActivationRow &row, const Floats &want) {
    expectNear(valuesOf(got, rows, row), want, kind.element == Storage::F32 ? 100 : 1);
    if (row.quantized())
      return;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = row.columns; c < padded(row.columns); ++c)
        EXPECT_EQ(get(got, r * padded(row.columns) + c, row.storage()), 0) << "padding";
  }
};

TEST_P(LayerNormKernel, GivesRowsThatFeedProducts) {
  for (int64_t hidden : {64, 88, 300}) {
    const int64_t tileRows = 5, tiles = 2, rows = tileRows * tiles;
    const ActivationRow row{kind.of(hidden), hidden};
    TestWeight norm = norms(hidden), bias = norms(hidden);
    Floats h = rowsToNorm(rows, hidden);
    const Bytes x = rowsFrom(CpuLayerNorm{tileRows, hidden, row.weight, kEps}, tiles,
                             rows * row.bytes(), h, norm, bias);
    expectRows(x, rows, row, reference::layerNorm(h, {norm.values, bias.values, kEps}));
  }
}

TEST_P(LayerNormKernel, LeavesTheTower) {
  for (auto [grid, hidden] : {std::pair<int64_t, int64_t>(4, 64), {2, 24}, {6, 40}}) {
    const int64_t tiles = 3, tileRows = grid * grid + 1;
    const ActivationRow row{kind.of(4 * hidden), 4 * hidden};
    const CpuTowerOutput contract{grid, hidden, row.weight, kEps};
    TestWeight norm = norms(hidden), bias = norms(hidden);
    Floats h = rowsToNorm(tiles * tileRows, hidden);
    const Bytes x =
        rowsFrom(contract, tiles, contract.bytes(Operand::X, {tiles, 0}), h, norm, bias);
    expectRows(x, tiles * grid * grid / 4, row,
               reference::towerOutput(h, {norm.values, bias.values, kEps}, grid));
  }
}

const std::vector<Kind> kTowerKinds{kF32Kind, kBf16Kind, kInt8Kind};
INSTANTIATE_TEST_SUITE_P(Cpu, LayerNormKernel, onAllTargets(kTowerKinds), nameOfCase);
INSTANTIATE_TEST_SUITE_P(NewerArm, LayerNormKernel, onNewerArm({kBf16Kind}), nameOfCase);

} // namespace
