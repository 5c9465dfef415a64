// Packed layouts: places worked out by hand, and on random shapes that no two elements share one.
#include "dialects/plan/Packing.h"
#include "mlir/IR/MLIRContext.h"
#include <gtest/gtest.h>

#include <array>
#include <random>

using namespace mlir;
using namespace moe;

namespace {

class PackingTest : public testing::Test {
protected:
  PackingTest() { context.loadDialect<MoeDialect, plan::PlanDialect>(); }

  PackedGeometry geometry(ArrayRef<int64_t> shape, Layout layout, bool bf16, int64_t headDim = 0) {
    Type f32 = Float32Type::get(&context);
    Type storage = bf16 ? Type(BFloat16Type::get(&context)) : f32;
    auto type = RankedTensorType::get(shape, f32);
    auto packing = plan::PackingAttr::get(&context, layout, storage, headDim);
    FailureOr<PackedGeometry> result = PackedGeometry::get(type, packing);
    EXPECT_TRUE(succeeded(result));
    EXPECT_EQ(result->bytes(), packedBytes(type, packing));
    return *result;
  }

  PackedGeometry codes(ArrayRef<int64_t> shape, Layout layout, WeightFormat format,
                       int64_t headDim = 0) {
    auto type = RankedTensorType::get(shape, Float32Type::get(&context));
    auto attr = FormatAttr::get(&context, format);
    EXPECT_EQ(attr.getFormat(), format);
    auto packing = plan::PackingAttr::get(&context, layout, attr, headDim);
    FailureOr<PackedGeometry> result = PackedGeometry::get(type, packing);
    EXPECT_TRUE(succeeded(result));
    EXPECT_EQ(result->bytes(), packedBytes(type, packing));
    return *result;
  }

  MLIRContext context;
};

TEST_F(PackingTest, Rows) {
  EXPECT_EQ(geometry({5}, Layout::Rows, false).bytes(), 20);
  EXPECT_EQ(geometry({3, 5}, Layout::Rows, true).bytes(), 30);
  EXPECT_EQ(geometry({2, 3, 5}, Layout::Rows, true).index(1, 2, 4), 29);
}

TEST_F(PackingTest, Panel) {
  PackedGeometry f32 = geometry({130, 5}, Layout::Panel, false);
  EXPECT_EQ(f32.bytes(), 3 * 5 * 64 * 4);
  EXPECT_EQ(f32.index(0, 0, 1), 64);
  EXPECT_EQ(f32.index(0, 65, 2), 5 * 64 + 2 * 64 + 1);
  // Pairs of columns, the last with a zero.
  PackedGeometry bf16 = geometry({2, 130, 5}, Layout::Panel, true);
  EXPECT_EQ(bf16.bytes(), 2 * 3 * 3 * 64 * 2 * 2);
  EXPECT_EQ(bf16.index(0, 1, 1), 3);
  EXPECT_EQ(bf16.index(0, 64, 4), 3 * 128 + 2 * 128);
  EXPECT_EQ(bf16.index(1, 0, 0), 3 * 3 * 128);
}

TEST_F(PackingTest, GateAndUpShareAPanel) {
  PackedGeometry g = geometry({96, 4}, Layout::PanelGateUp, false); // i = 48
  EXPECT_EQ(g.panels, 2);
  EXPECT_EQ(g.packedRow(31), 31);
  EXPECT_EQ(g.packedRow(32), 64);
  EXPECT_EQ(g.packedRow(48), 32);           // up row 0
  EXPECT_EQ(g.packedRow(48 + 47), 96 + 15); // up row 47
}

TEST_F(PackingTest, AHeadStartsAPanel) {
  PackedGeometry small = geometry({48, 4}, Layout::PanelHeads, true, 16);
  EXPECT_EQ(small.panels, 3);
  EXPECT_EQ(small.packedRow(17), 65);
  PackedGeometry large = geometry({160, 4}, Layout::PanelHeads, true, 80);
  EXPECT_EQ(large.panels, 4);
  EXPECT_EQ(large.packedRow(79), 79);
  EXPECT_EQ(large.packedRow(80), 128);
}

TEST_F(PackingTest, FragmentsAreAsALaneHoldsThem) {
  PackedGeometry g = geometry({2, 40, 70}, Layout::Fragments, true);
  EXPECT_EQ(g.bytes(), 2 * 48 * 128 * 2); // rows padded to 16, columns to 64
  EXPECT_EQ(g.index(0, 0, 1), 1);
  EXPECT_EQ(g.index(0, 8, 0), 2);     // the second pair of lane 0
  EXPECT_EQ(g.index(0, 0, 8), 4);     // the third
  EXPECT_EQ(g.index(0, 0, 2), 8);     // lane 1
  EXPECT_EQ(g.index(0, 1, 0), 4 * 8); // lane 4
  EXPECT_EQ(g.index(0, 15, 15), 31 * 8 + 7);
  EXPECT_EQ(g.index(0, 0, 16), 256);     // the next tile
  EXPECT_EQ(g.index(0, 16, 0), 8 * 256); // the next strip, of 8 tiles
  EXPECT_EQ(g.index(1, 0, 0), 3 * 8 * 256);
}

TEST_F(PackingTest, GateAndUpShareAStrip) {
  PackedGeometry g = geometry({40, 64}, Layout::FragmentsGateUp, true); // i = 20
  EXPECT_EQ(g.panels, 3);
  EXPECT_EQ(g.packedRow(7), 7);
  EXPECT_EQ(g.packedRow(8), 16);
  EXPECT_EQ(g.packedRow(20), 8);               // up row 0
  EXPECT_EQ(g.packedRow(20 + 19), 32 + 8 + 3); // up row 19
}

TEST_F(PackingTest, NoTwoElementsShareAPlace) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    Layout layout = Layout(random() % 6);
    bool gateUp = layout == Layout::PanelGateUp || layout == Layout::FragmentsGateUp;
    bool fragments = layout == Layout::Fragments || layout == Layout::FragmentsGateUp;
    int64_t outer = 1 + random() % 3, headDim = 1 + random() % 100, cols = 1 + random() % 9;
    if (fragments)
      cols += random() % 100;
    int64_t rows = layout == Layout::PanelHeads ? headDim * (1 + random() % 4)
                   : gateUp                     ? 2 * (1 + random() % 100)
                                                : 1 + random() % 200;
    PackedGeometry g = geometry({outer, rows, cols}, layout, fragments || random() % 2, headDim);
    std::vector<bool> taken(g.bytes() / g.elementBytes);
    for (int64_t o = 0; o < outer; ++o)
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t col = 0; col < cols; ++col) {
          int64_t place = g.index(o, row, col);
          ASSERT_LT(place, int64_t(taken.size()));
          ASSERT_FALSE(taken[place]);
          taken[place] = true;
        }
  }
}

TEST_F(PackingTest, CodesLieInGroups) {
  // A group is 128 bytes of scales and 2 units of 4 columns.
  PackedGeometry g = codes({2, 70, 16}, Layout::Panel, {Storage::I8, 8, Storage::F16});
  EXPECT_EQ(g.panels, 2);
  EXPECT_EQ(g.groups(), 2);
  EXPECT_EQ(g.panelBytes(), 2 * (128 + 2 * 256));
  EXPECT_EQ(g.scale(0, 1, 0), 2);
  EXPECT_EQ(g.scale(0, 0, 1), 128 + 512);
  EXPECT_EQ(g.scale(0, 64, 0), g.panelBytes());
  EXPECT_EQ(g.code(0, 0, 0).byte, 128);
  EXPECT_EQ(g.code(0, 1, 2).byte, 128 + 4 + 2);
  EXPECT_EQ(g.code(0, 0, 5).byte, 128 + 256 + 1);
  EXPECT_EQ(g.code(1, 0, 8).byte, 2 * g.panelBytes() + 128 + 512 + 128);
}

TEST_F(PackingTest, HalvesOfAByte) {
  PackedGeometry g = codes({64, 32}, Layout::Panel, {Storage::I4, 32, Storage::BF16, true});
  EXPECT_EQ(g.panelBytes(), 128 + 64 + 8 * 128);
  EXPECT_EQ(g.zero(0, 3, 0), 128 + 3);
  auto expectCode = [&](int64_t row, int64_t col, int64_t byte, int64_t shift) {
    EXPECT_EQ(g.code(0, row, col).byte, 192 + byte);
    EXPECT_EQ(g.code(0, row, col).shift, shift);
  };
  expectCode(0, 0, 0, 0);
  expectCode(15, 3, 63, 0);
  expectCode(16, 0, 0, 4);
  expectCode(32, 1, 65, 0);
  expectCode(48, 4, 128 + 64, 4);

  PackedGeometry rows = codes({3, 6}, Layout::Rows, {Storage::I4, 3, Storage::F16});
  EXPECT_EQ(rows.rowBytes(), 4 + 4);
  EXPECT_EQ(rows.scale(0, 1, 1), 8 + 2);
  EXPECT_EQ(rows.code(0, 1, 5).byte, 8 + 4 + 2);
  EXPECT_EQ(rows.code(0, 1, 5).shift, 4);
}

TEST_F(PackingTest, FragmentsOfCodes) {
  // A block is a group of 128 columns: 32 bytes of scales and two tiles of 512.
  WeightFormat int4{Storage::I4, 128, Storage::F16};
  PackedGeometry g = codes({2, 40, 256}, Layout::Fragments, int4);
  EXPECT_EQ(g.panels, 3);
  EXPECT_EQ(g.panelBytes(), 2 * (32 + 2 * 512));
  EXPECT_EQ(g.bytes(), 2 * 3 * g.panelBytes());
  EXPECT_EQ(g.scale(0, 9, 0), (1 * 2 + 1) * 2);
  EXPECT_EQ(g.scale(0, 16, 1), g.panelBytes() + 1056);
  auto expectCode = [&](int64_t row, int64_t col, int64_t byte, int64_t shift) {
    EXPECT_EQ(g.code(0, row, col).byte, byte) << row << " " << col;
    EXPECT_EQ(g.code(0, row, col).shift, shift) << row << " " << col;
  };
  expectCode(0, 0, 32, 0);
  expectCode(0, 1, 32 + 2, 0); // the other half of the register
  expectCode(8, 0, 32, 4);     // the second pair
  expectCode(0, 8, 32 + 1, 0); // the third
  expectCode(15, 15, 32 + 31 * 16 + 3, 4);
  expectCode(1, 2, 32 + 5 * 16, 0); // lane 5
  expectCode(0, 16, 32 + 4, 0);     // the next product of the lane
  expectCode(0, 64, 32 + 512, 0);   // the next tile
  expectCode(0, 128, 1056 + 32, 0); // the next group
  EXPECT_EQ(g.code(1, 0, 0).byte, 3 * g.panelBytes() + 32);

  // Two groups a tile; their zeros follow their scales.
  g = codes({16, 96}, Layout::Fragments, {Storage::I4, 32, Storage::F16, true});
  EXPECT_EQ(g.panelBytes(), 2 * (2 * 32 + 2 * 16 + 512));
  EXPECT_EQ(g.scale(0, 0, 1), 32);
  EXPECT_EQ(g.zero(0, 0, 0), 64);
  EXPECT_EQ(g.zero(0, 8, 1), 64 + 16 + 1);
  EXPECT_EQ(g.code(0, 0, 32).byte, 96 + 8);
  EXPECT_EQ(g.scale(0, 0, 2), 608);

  g = codes({16, 128}, Layout::Fragments, {Storage::I8, 128, Storage::F16});
  EXPECT_EQ(g.panelBytes(), 32 + 2 * 1024);
  EXPECT_EQ(g.code(0, 0, 1).byte, 32 + 2);
  EXPECT_EQ(g.code(0, 8, 0).byte, 32 + 1);
  EXPECT_EQ(g.code(0, 0, 8).byte, 32 + 4);
  EXPECT_EQ(g.code(0, 0, 16).byte, 32 + 8);
  EXPECT_EQ(g.code(0, 0, 32).byte, 32 + 512);

  // One scale a row, whatever the columns.
  g = codes({16, 70}, Layout::Fragments, {Storage::F8E4M3, 70, Storage::F32});
  EXPECT_EQ(g.panelBytes(), 64 + 2 * 1024);
}

TEST_F(PackingTest, NoTwoCodesShareAPlace) {
  std::mt19937 random(2);
  for (int round = 0; round < 150; ++round) {
    Layout layout = Layout(random() % 6);
    bool fragments = layout == Layout::Fragments || layout == Layout::FragmentsGateUp;
    int64_t outer = 1 + random() % 2, headDim = 1 + random() % 100, groups = 1 + random() % 3;
    Storage element = std::array{Storage::I4, Storage::I8, Storage::F8E4M3}[random() % 3];
    WeightFormat format{element, int64_t(1 + random() % 20),
                        std::array{Storage::F16, Storage::BF16, Storage::F32}[random() % 3],
                        element == Storage::I4 && random() % 2};
    if (fragments) {
      format.group = std::array<int64_t, 5>{16, 32, 64, 128, 70}[random() % 5];
      if (format.group == 70)
        groups = 1;
    }
    int64_t cols = groups * format.group;
    int64_t rows = layout == Layout::PanelHeads ? headDim * (1 + random() % 3)
                   : layout == Layout::PanelGateUp || layout == Layout::FragmentsGateUp
                       ? 2 * (1 + random() % 80)
                       : 1 + random() % 150;
    PackedGeometry g = codes({outer, rows, cols}, layout, format, headDim);
    std::vector<bool> taken(2 * g.bytes()); // halves of bytes
    auto take = [&](int64_t half, int64_t count) {
      for (int64_t i = half; i < half + count; ++i) {
        ASSERT_LT(i, int64_t(taken.size()));
        ASSERT_FALSE(taken[i]);
        taken[i] = true;
      }
    };
    for (int64_t o = 0; o < outer; ++o)
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t col = 0; col < cols; ++col) {
          auto [byte, shift] = g.code(o, row, col);
          take(2 * byte + shift / 4, bitsOf(element) / 4);
        }
        for (int64_t group = 0; group < groups; ++group) {
          take(2 * g.scale(o, row, group), 2 * bytesOf(format.scale));
          if (format.zeros)
            take(2 * g.zero(o, row, group), 2);
        }
      }
    if (HasFatalFailure())
      return;
  }
}

} // namespace
