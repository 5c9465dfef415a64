// What enters a tower, on every processor that this machine has or emulates, against the reference.
// The bits of a result depend neither on the number of workers nor on other tiles.
#include "compiler/kernels/TestTower.h"
#include "compiler/kernels/patch_embed/PatchEmbed.h"

using namespace mlir;
using namespace moe;
using namespace moe::codegen;

namespace {

constexpr float kEps = 1e-5f;

class PatchEmbedKernel : public Kernels {};

TEST_P(PatchEmbedKernel, EntersTheTower) {
  struct Case {
    int64_t grid, patch, hidden, tiles;
    reference::Normalization values;
  };
  const float third = 1.0f / 255;
  for (const Case &c : {Case{4, 14, 64, 3, {third, {0.5f, 0.5f, 0.5f}, {0.5f, 0.5f, 0.5f}}},
                        Case{9, 4, 88, 2, {third, {0.48f, 0.45f, 0.41f}, {0.27f, 0.26f, 0.3f}}}}) {
    const int64_t side = c.grid * c.patch, tileBytes = side * side * 3;
    const CpuPatchEmbed contract{c.grid,
                                 c.patch,
                                 c.hidden,
                                 {c.values.rescale, c.values.mean, c.values.std},
                                 kind.of(3 * c.patch * c.patch),
                                 kEps};
    const int64_t columns = contract.columns(), rows = contract.rows();
    Bytes tiles(c.tiles * tileBytes);
    for (std::byte &byte : tiles)
      byte = std::byte(generator());
    TestWeight w = matrix({c.hidden, columns}, WeightLayout::Kind::Panel, contract.format,
                          1 / std::sqrt(float(columns))),
               table = matrix({rows, c.hidden}, WeightLayout::Kind::Rows, {Storage::F32}, 1),
               classRow = norms(c.hidden), norm = norms(c.hidden), normBias = norms(c.hidden);
    Compiled kernel = compile(contract);
    const int64_t rowBytes = padded(c.hidden) * 4;
    auto go = [&](Bytes &h, int64_t tile, int32_t count, int workers) {
      run(kernel,
          {{Operand::Tiles, {tiles, size_t(tile * tileBytes)}},
           {Operand::Weight, w.bytes},
           {Operand::ClassRow, classRow.bytes},
           {Operand::RowTable, table.bytes},
           {Operand::Norm, norm.bytes},
           {Operand::NormBias, normBias.bytes},
           {Operand::H, {h, size_t(tile * rows * rowBytes)}}},
          count, 0, 0, workers);
    };
    Bytes one(c.tiles * rows * rowBytes, std::byte(0xff)), three = one, alone = one;
    go(one, 0, int32_t(c.tiles), 1);
    go(three, 0, int32_t(c.tiles), 3);
    for (int64_t t = 0; t < c.tiles; ++t)
      go(alone, t, 1, 2);
    EXPECT_EQ(one, three);
    EXPECT_EQ(one, alone);
    const auto *bytes = reinterpret_cast<const uint8_t *>(tiles.data());
    expectNear(valuesOf(one, c.tiles * rows, c.hidden, Storage::F32),
               reference::patchEmbed({bytes, tiles.size()}, side, c.patch, c.values,
                                     {.weight = w.values,
                                      .classRow = classRow.values,
                                      .positions = table.values,
                                      .norm = {norm.values, normBias.values, kEps}}),
               // Pixels are exact in bf16.
               kind.element == Storage::BF16 ? 1e-3 : 2);
    for (int64_t r = 0; r < c.tiles * rows; ++r)
      for (int64_t i = c.hidden; i < padded(c.hidden); ++i)
        EXPECT_EQ(get(one, r * padded(c.hidden) + i, Storage::F32), 0) << "padding";
  }
}

const std::vector<Kind> kTowerKinds{kF32Kind, kBf16Kind, kInt8Kind};
INSTANTIATE_TEST_SUITE_P(Cpu, PatchEmbedKernel, someKinds(kTowerKinds), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Arm, PatchEmbedKernel, aarch64Kinds({kBf16Kind}), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, PatchEmbedKernel, emulatedKinds(), nameOfCase);

} // namespace
