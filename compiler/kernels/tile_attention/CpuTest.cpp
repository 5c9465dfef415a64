// Attention of tiles, on every processor that this machine has or emulates, against the reference.
// The bits of a result depend neither on the number of workers nor on other tiles.
#include "compiler/kernels/TestTower.h"
#include "compiler/kernels/tile_attention/TileAttention.h"
#include <numbers>

using namespace mlir;
using namespace moe;
using namespace moe::codegen;

namespace {

class TileAttentionKernel : public Kernels {
protected:
  // Queries, keys and values as their kernel leaves them: what nobody wrote is NaN.
  struct Heads {
    Bytes q, keys, values;
  };
  Heads heads(const TestTower &tower, const TileHeads &h, const Floats &q, const Floats &k,
              const Floats &v) {
    auto unwritten = [&](int64_t bytes) { return Bytes(tower.tiles * bytes, std::byte(0xff)); };
    Heads to{unwritten(h.queriesBytes()), unwritten(h.keysBytes()), unwritten(h.valuesBytes())};
    auto places = [&](int64_t rows, int64_t columns) {
      return *WeightLayout::create(std::vector<int64_t>{rows, columns}, h.format(),
                                   WeightLayout::Kind::Panel);
    };
    const WeightLayout ofKeys = places(h.rows, h.headDim), ofValues = places(h.headDim, h.rows);
    const int64_t bytes = bytesOf(h.storage);
    for (int64_t t = 0; t < tower.tiles; ++t)
      for (int64_t head = 0; head < h.heads; ++head) {
        const int64_t at = t * h.heads + head;
        auto channel = [&](const Floats &x, int64_t row, int64_t c) {
          return x[((t * h.rows + row) * h.heads + head) * h.headDim + c];
        };
        for (int64_t row = 0; row < h.rows; ++row) {
          for (int64_t c = 0; c < h.queryBytes() / bytes; ++c)
            put(to.q, (at * h.rows + row) * h.queryBytes() / bytes + c,
                c < h.headDim ? channel(q, row, c) : 0, h.storage);
          for (int64_t c = 0; c < h.headDim; ++c) {
            put(to.keys, at * h.keyPanels() * h.keyPanelBytes() / bytes + ofKeys.index(0, row, c),
                channel(k, row, c), h.storage);
            const int64_t base = at * h.valuePanels() * h.valuePanelBytes() / bytes;
            put(to.values, base + ofValues.index(0, c, row), channel(v, row, c), h.storage);
            if (h.storage == Storage::BF16 && h.rows % 2 && row == h.rows - 1)
              put(to.values, base + ofValues.index(0, c, row) + 1, 0, h.storage);
          }
        }
      }
    return to;
  }
};

TEST_P(TileAttentionKernel, SeesAllRowsOfATile) {
  for (const TestTower &tower : kTestTowers) {
    SCOPED_TRACE(testing::Message() << tower.heads << " heads of " << tower.headDim);
    const TileHeads h{tower.heads, tower.headDim, tower.rows(), storage};
    const int64_t rows = tower.tiles * tower.rows(), n = h.channels();
    const ActivationRow row{kind.of(n), n};
    const CpuTileAttention contract{h, row.weight};
    // Scores of some tens, so that the softmax is far from even.
    Floats q = random(rows * n, 2), k = random(rows * n, 2), v = random(rows * n);
    for (Floats *x : {&q, &k, &v})
      for (float &value : *x)
        value = reference::roundToBfloat16(value);
    Floats scaled = q;
    for (float &value : scaled)
      value *= std::numbers::log2e_v<float> / std::sqrt(float(h.headDim));
    Heads made = heads(tower, h, scaled, k, v);
    Compiled kernel = compile(contract);
    auto go = [&](Bytes &out, int64_t tile, int32_t count, int workers) {
      const auto first = size_t(tile);
      run(kernel,
          {{Operand::Q, {made.q, first * h.queriesBytes()}},
           {Operand::Keys, {made.keys, first * h.keysBytes()}},
           {Operand::Values, {made.values, first * h.valuesBytes()}},
           {Operand::AttentionOut, {out, first * tower.rows() * row.bytes()}}},
          count, 0, 0, workers);
    };
    Bytes one(rows * row.bytes()), three = one, alone = one;
    go(one, 0, int32_t(tower.tiles), 1);
    go(three, 0, int32_t(tower.tiles), 3);
    for (int64_t t = 0; t < tower.tiles; ++t)
      go(alone, t, 1, 2);
    EXPECT_EQ(one, three);
    EXPECT_EQ(one, alone);
    expectNear(valuesOf(one, rows, row),
               reference::tileAttention(q, k, v, tower.heads, tower.headDim, tower.grid), 2);
    if (row.quantized())
      continue;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = n; c < padded(n); ++c)
        EXPECT_EQ(get(one, r * padded(n) + c, row.storage()), 0) << "padding";
  }
}

const std::vector<Kind> kTowerKinds{kF32Kind, kBf16Kind, kInt8Kind};
INSTANTIATE_TEST_SUITE_P(Cpu, TileAttentionKernel, someKinds(kTowerKinds), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Arm, TileAttentionKernel, aarch64Kinds({kBf16Kind}), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, TileAttentionKernel, emulatedKinds(), nameOfCase);

} // namespace
