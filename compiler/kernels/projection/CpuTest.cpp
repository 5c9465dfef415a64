// The linear layers of vision towers, on every processor that this machine has or emulates, against
// the reference. The bits of a result depend neither on the number of workers nor on other tiles.
#include "compiler/kernels/TestTower.h"
#include "compiler/kernels/projection/Math.h"
#include "compiler/kernels/projection/Projection.h"
#include <numbers>

using namespace mlir;
using namespace moe;
using namespace moe::codegen;

namespace {

class ProjectionKernel : public Kernels {
protected:
  using To = CpuProjection::To;

  Floats biases(int64_t n) { return random(n); }
  TestWeight weight(int64_t outputs, int64_t inputs) {
    return matrix({outputs, inputs}, WeightLayout::Kind::Panel, kind.of(inputs),
                  1 / std::sqrt(float(inputs)));
  }
};

class GeluKernel : public ProjectionKernel {};

// Runs a projection on one worker, on three, and tile by tile; expects the same bits of all.
TEST_P(ProjectionKernel, GivesEachDestination) {
  struct Case {
    int64_t rows, inputs, outputs;
    To to;
    bool bias, gelu;
  };
  // More rows than a block has; columns that are not all multiplied at once; one that is as wide as
  // codes are cut.
  for (const Case &c :
       {Case{17, 64, 200, To::Stream, true, false}, Case{101, 88, 64, To::Stream, false, true},
        Case{5, 2048, 130, To::Stream, true, false}, Case{10, 88, 300, To::Rows, true, true},
        Case{17, 64, 64, To::Rows, false, true}, Case{4, 96, 130, To::Images, false, false},
        Case{4, 300, 64, To::Images, true, false}}) {
    SCOPED_TRACE(testing::Message() << c.rows << " rows of " << c.inputs << " to " << c.outputs);
    const int64_t tiles = 2, rows = tiles * c.rows;
    const ActivationRow from{kind.of(c.inputs), c.inputs};
    const ActivationRow into{c.to == To::Rows ? kind.of(c.outputs) : WeightFormat{Storage::F32},
                             c.outputs};
    const CpuProjection contract{c.rows, c.inputs, c.outputs, from.weight,
                                 c.to,   c.bias,   c.gelu,    into.weight};
    TestWeight w = weight(c.outputs, c.inputs);
    Floats x = random(rows * c.inputs), bias = biases(c.outputs), h = random(rows * c.outputs);
    Bytes xs = activations(x, from);
    const Operand out = c.to == To::Stream   ? Operand::H
                        : c.to == To::Images ? Operand::Images
                                             : Operand::Hidden;
    const int64_t outBytes = c.to == To::Images ? c.outputs * 4 : into.bytes(); // of a row
    const Bytes before = c.to == To::Stream ? rowsOf(h, c.outputs, Storage::F32)
                                            : Bytes(rows * outBytes, std::byte(0xff));
    Compiled kernel = compile(contract);
    auto go = [&](Bytes &to, int64_t tile, int32_t count, int workers) {
      const size_t first = size_t(tile * c.rows);
      std::vector<Argument> arguments{{Operand::X, {xs, first * from.bytes()}},
                                      {Operand::Weight, w.bytes},
                                      {out, {to, first * outBytes}}};
      if (c.bias)
        arguments.push_back({Operand::Bias, bias});
      run(kernel, arguments, count, 0, 0, workers);
    };
    Bytes one = before, three = before, alone = before;
    go(one, 0, tiles, 1);
    go(three, 0, tiles, 3);
    for (int64_t t = 0; t < tiles; ++t)
      go(alone, t, 1, 2);
    EXPECT_EQ(one, three);
    EXPECT_EQ(one, alone);
    // Given what the rows say, only float32 sums round, and what the result is stored as.
    reference::ProjectionOptions options{.norm = {}, .bias = {}, .gelu = c.gelu, .residual = {}};
    if (c.bias)
      options.bias = bias;
    if (c.to == To::Stream)
      options.residual = h;
    Floats want = reference::projection(valuesOf(xs, rows, from), w.values, c.inputs, options);
    if (c.to == To::Images) {
      Floats got(rows * c.outputs);
      memcpy(got.data(), one.data(), got.size() * 4);
      EXPECT_EQ(one.size(), got.size() * 4);
      for (size_t i = 0; i < got.size(); ++i)
        EXPECT_NEAR(got[i], want[i], 1e-5) << "element " << i;
      continue;
    }
    Floats got = valuesOf(one, rows, into);
    if (c.to == To::Rows) {
      expectNear(got, want, 2);
    } else {
      for (size_t i = 0; i < got.size(); ++i)
        EXPECT_NEAR(got[i], want[i], 2e-5) << "element " << i;
    }
    if (!into.quantized())
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t p = c.outputs; p < padded(c.outputs); ++p)
          EXPECT_EQ(get(one, r * padded(c.outputs) + p, into.storage()), 0) << "padding";
  }
}

// Rounded as float32, of every size of x.
TEST_P(GeluKernel, IsExact) {
  // The identity as the weight, so that the result is GELU of x.
  const int64_t n = 64, rows = 1001;
  TestWeight w = weight(n, n);
  for (int64_t i = 0; i < n * n; ++i)
    put(w.bytes,
        WeightLayout::create(std::vector<int64_t>{n, n}, kind.of(n), WeightLayout::Kind::Panel)
            ->index(0, i / n, i % n),
        i / n == i % n, Storage::F32);
  Floats x(rows * n);
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = (float(i) / float(x.size()) - 0.5f) * 40;
  Bytes xs = rowsOf(x, n, Storage::F32), y(xs.size());
  run(compile(CpuProjection{rows, n, n, kind.of(n), To::Rows, false, true, kind.of(n)}),
      {{Operand::X, xs}, {Operand::Weight, w.bytes}, {Operand::Hidden, y}}, 1, 0, 0, 2);
  Floats got = valuesOf(y, rows, n, Storage::F32);
  for (size_t i = 0; i < x.size(); ++i) {
    const double at = x[i], want = at * std::erfc(-at / std::numbers::sqrt2) / 2;
    EXPECT_NEAR(got[i], want, 0x1p-23 * std::abs(at)) << "of " << at;
    if (at > -5)
      EXPECT_NEAR(got[i], want, 1e-5 * std::abs(want)) << "of " << at;
  }
}

class TowerQkvKernel : public Kernels {};

TEST_P(TowerQkvKernel, PutsHeadsWhereAttentionReadsThem) {
  const int64_t hidden = 72;
  const Storage kept = storage;
  for (const TestTower &tower : kTestTowers) {
    const TileHeads heads{tower.heads, tower.headDim, tower.rows(), kept};
    const ActivationRow row{kind.of(hidden), hidden};
    const CpuTowerQkv contract{hidden, tower.grid, 1e4f, row.weight, heads};
    const int64_t rows = tower.tiles * tower.rows(), all = 3 * tower.channels();
    TestWeight w =
        matrix({all, hidden}, WeightLayout::Kind::Panel, row.weight, 1 / std::sqrt(float(hidden)));
    Floats bias = random(all), x = random(rows * hidden);
    Bytes xs = activations(x, row);
    Compiled kernel = compile(contract);
    struct Heads {
      Bytes q, keys, values;
      bool operator==(const Heads &) const = default;
    };
    auto go = [&](int workers) {
      const Step step{tower.tiles, 0};
      // Zeros, so that what pads panels compares equal.
      Heads to{Bytes(contract.bytes(Operand::Q, step)), Bytes(contract.bytes(Operand::Keys, step)),
               Bytes(contract.bytes(Operand::Values, step))};
      run(kernel,
          {{Operand::X, xs},
           {Operand::Weight, w.bytes},
           {Operand::Bias, bias},
           {Operand::Q, to.q},
           {Operand::Keys, to.keys},
           {Operand::Values, to.values}},
          int32_t(tower.tiles), 0, 0, workers);
      return to;
    };
    Heads one = go(1);
    EXPECT_EQ(one, go(3));
    Floats sums = reference::linearBias(valuesOf(xs, rows, row), w.values, bias);
    auto part = [&](int64_t kind) {
      Floats channels;
      for (int64_t r = 0; r < rows; ++r)
        channels.insert(channels.end(), &sums[r * all + kind * tower.channels()],
                        &sums[r * all + (kind + 1) * tower.channels()]);
      return channels;
    };
    auto turned = [&](int64_t kind) {
      return reference::patchRope(part(kind), tower.heads, tower.headDim, tower.grid, 1e4f);
    };
    Floats q = turned(0), k = turned(1), v = part(2), gotQ, gotK, gotV;
    for (float &value : q)
      value *= std::numbers::log2e_v<float> / std::sqrt(float(tower.headDim));
    auto keyPlaces = *WeightLayout::create(std::vector<int64_t>{tower.rows(), tower.headDim},
                                           heads.format(), WeightLayout::Kind::Panel);
    auto valuePlaces = *WeightLayout::create(std::vector<int64_t>{tower.headDim, tower.rows()},
                                             heads.format(), WeightLayout::Kind::Panel);
    const int64_t bytes = bytesOf(kept);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < tower.channels(); ++c) {
        const int64_t at = r / tower.rows() * tower.heads + c / tower.headDim,
                      row = r % tower.rows(), channel = c % tower.headDim;
        gotQ.push_back(
            get(one.q, (at * tower.rows() + row) * heads.queryBytes() / bytes + channel, kept));
        gotK.push_back(get(one.keys,
                           at * heads.keyPanels() * heads.keyPanelBytes() / bytes +
                               keyPlaces.index(0, row, channel),
                           kept));
        gotV.push_back(get(one.values,
                           at * heads.valuePanels() * heads.valuePanelBytes() / bytes +
                               valuePlaces.index(0, channel, row),
                           kept));
      }
    expectNear(gotQ, q);
    expectNear(gotK, k);
    expectNear(gotV, v);
  }
}

const std::vector<Kind> kTowerKinds{kF32Kind, kBf16Kind, kInt8Kind};
INSTANTIATE_TEST_SUITE_P(Cpu, ProjectionKernel, someKinds(kTowerKinds), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Arm, ProjectionKernel, aarch64Kinds({kBf16Kind}), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, ProjectionKernel, emulatedKinds(), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Cpu, GeluKernel, someKinds({kF32Kind}), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Cpu, TowerQkvKernel, someKinds(kTowerKinds), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Arm, TowerQkvKernel, aarch64Kinds({kBf16Kind}), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, TowerQkvKernel, emulatedKinds(), nameOfCase);

} // namespace
