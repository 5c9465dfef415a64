// Layouts: places worked out by hand; on random shapes, that no two elements share a place and all
// lie inside; bytes by counting; and numbers that nobody has checked.
#include "runtime/weights/Layout.h"
#include "runtime/Status.h"
#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <random>
#include <vector>

using namespace moe;
using Kind = WeightLayout::Kind;

namespace {

using Shape = std::vector<int64_t>;

constexpr Kind kKinds[] = {Kind::Rows,       Kind::Panel,     Kind::PanelGateUp,
                           Kind::PanelHeads, Kind::Fragments, Kind::FragmentsGateUp};

WeightLayout layout(const Shape &shape, Kind kind, const WeightFormat &format,
                    int64_t headDim = 0) {
  Result<WeightLayout> made = WeightLayout::create(shape, format, kind, headDim);
  EXPECT_TRUE(made) << (made ? "" : made.error().message);
  return made ? *made : WeightLayout();
}
WeightLayout plain(const Shape &shape, Kind kind, bool bf16, int64_t headDim = 0) {
  return layout(shape, kind, {bf16 ? Storage::BF16 : Storage::F32}, headDim);
}

std::string errorOf(const Shape &shape, const WeightFormat &format, Kind kind,
                    int64_t headDim = 0) {
  Result<WeightLayout> made = WeightLayout::create(shape, format, kind, headDim);
  if (made)
    return "";
  EXPECT_EQ(made.error().code, Code::InvalidArgument);
  return made.error().message;
}

TEST(Layout, NamesRoundTrip) {
  for (Kind kind : kKinds)
    EXPECT_EQ(layoutNamed(nameOf(kind)), kind);
  EXPECT_STREQ(nameOf(Kind::PanelGateUp), "panel_gate_up");
  for (const char *name : {"", "row", "panels", "Panel", "panel_", "fragments_heads"})
    EXPECT_FALSE(layoutNamed(name)) << name;
}

TEST(Layout, Rows) {
  EXPECT_EQ(plain({5}, Kind::Rows, false).bytes(), 20);
  EXPECT_EQ(plain({3, 5}, Kind::Rows, true).bytes(), 30);
  EXPECT_EQ(plain({2, 3, 5}, Kind::Rows, true).index(1, 2, 4), 29);
}

TEST(Layout, Panel) {
  WeightLayout f32 = plain({130, 5}, Kind::Panel, false);
  EXPECT_EQ(f32.bytes(), 3 * 5 * 64 * 4);
  EXPECT_EQ(f32.index(0, 0, 1), 64);
  EXPECT_EQ(f32.index(0, 65, 2), 5 * 64 + 2 * 64 + 1);
  // Pairs of columns, the last with a zero.
  WeightLayout bf16 = plain({2, 130, 5}, Kind::Panel, true);
  EXPECT_EQ(bf16.bytes(), 2 * 3 * 3 * 64 * 2 * 2);
  EXPECT_EQ(bf16.index(0, 1, 1), 3);
  EXPECT_EQ(bf16.index(0, 64, 4), 3 * 128 + 2 * 128);
  EXPECT_EQ(bf16.index(1, 0, 0), 3 * 3 * 128);
}

TEST(Layout, GateAndUpShareAPanel) {
  WeightLayout g = plain({96, 4}, Kind::PanelGateUp, false); // i = 48
  EXPECT_EQ(g.panels, 2);
  EXPECT_EQ(g.packedRow(31), 31);
  EXPECT_EQ(g.packedRow(32), 64);
  EXPECT_EQ(g.packedRow(48), 32);           // up row 0
  EXPECT_EQ(g.packedRow(48 + 47), 96 + 15); // up row 47
}

TEST(Layout, AHeadStartsAPanel) {
  WeightLayout small = plain({48, 4}, Kind::PanelHeads, true, 16);
  EXPECT_EQ(small.panels, 3);
  EXPECT_EQ(small.packedRow(17), 65);
  WeightLayout large = plain({160, 4}, Kind::PanelHeads, true, 80);
  EXPECT_EQ(large.panels, 4);
  EXPECT_EQ(large.packedRow(79), 79);
  EXPECT_EQ(large.packedRow(80), 128);
}

TEST(Layout, FragmentsAreAsALaneHoldsThem) {
  WeightLayout g = plain({2, 40, 70}, Kind::Fragments, true);
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

TEST(Layout, GateAndUpShareAStrip) {
  WeightLayout g = plain({40, 64}, Kind::FragmentsGateUp, true); // i = 20
  EXPECT_EQ(g.panels, 3);
  EXPECT_EQ(g.packedRow(7), 7);
  EXPECT_EQ(g.packedRow(8), 16);
  EXPECT_EQ(g.packedRow(20), 8);               // up row 0
  EXPECT_EQ(g.packedRow(20 + 19), 32 + 8 + 3); // up row 19
}

TEST(Layout, CodesLieInGroups) {
  // A group is 128 bytes of scales and 2 units of 4 columns.
  WeightLayout g = layout({2, 70, 16}, Kind::Panel, {Storage::I8, 8, Storage::F16});
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

TEST(Layout, HalvesOfAByte) {
  WeightLayout g = layout({64, 32}, Kind::Panel, {Storage::I4, 32, Storage::BF16, true});
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

  WeightLayout rows = layout({3, 6}, Kind::Rows, {Storage::I4, 3, Storage::F16});
  EXPECT_EQ(rows.rowBytes(), 4 + 4);
  EXPECT_EQ(rows.scale(0, 1, 1), 8 + 2);
  EXPECT_EQ(rows.code(0, 1, 5).byte, 8 + 4 + 2);
  EXPECT_EQ(rows.code(0, 1, 5).shift, 4);
}

TEST(Layout, FragmentsOfCodes) {
  // A block is a group of 128 columns: 32 bytes of scales and two tiles of 512.
  WeightFormat int4{Storage::I4, 128, Storage::F16};
  WeightLayout g = layout({2, 40, 256}, Kind::Fragments, int4);
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
  g = layout({16, 96}, Kind::Fragments, {Storage::I4, 32, Storage::F16, true});
  EXPECT_EQ(g.panelBytes(), 2 * (2 * 32 + 2 * 16 + 512));
  EXPECT_EQ(g.scale(0, 0, 1), 32);
  EXPECT_EQ(g.zero(0, 0, 0), 64);
  EXPECT_EQ(g.zero(0, 8, 1), 64 + 16 + 1);
  EXPECT_EQ(g.code(0, 0, 32).byte, 96 + 8);
  EXPECT_EQ(g.scale(0, 0, 2), 608);

  g = layout({16, 128}, Kind::Fragments, {Storage::I8, 128, Storage::F16});
  EXPECT_EQ(g.panelBytes(), 32 + 2 * 1024);
  EXPECT_EQ(g.code(0, 0, 1).byte, 32 + 2);
  EXPECT_EQ(g.code(0, 8, 0).byte, 32 + 1);
  EXPECT_EQ(g.code(0, 0, 8).byte, 32 + 4);
  EXPECT_EQ(g.code(0, 0, 16).byte, 32 + 8);
  EXPECT_EQ(g.code(0, 0, 32).byte, 32 + 512);

  // One scale a row, whatever the columns.
  g = layout({16, 70}, Kind::Fragments, {Storage::F8E4M3, 70, Storage::F32});
  EXPECT_EQ(g.panelBytes(), 64 + 2 * 1024);
}

// The half bytes that elements, scales and zeros take, each once and all inside: by brute force, on
// shapes that leave panels, strips, units and blocks partly empty.
class Places {
public:
  explicit Places(const WeightLayout &l) : taken(size_t(2 * l.bytes())) {
    const WeightFormat &f = l.format;
    const int64_t halves = bitsOf(f.element) / 4;
    for (int64_t o = 0; o < l.outer; ++o)
      for (int64_t row = 0; row < l.rows; ++row) {
        for (int64_t col = 0; col < l.cols; ++col) {
          if (!f.quantized()) {
            take(l.index(o, row, col) * halves, halves);
            continue;
          }
          const auto [byte, shift] = l.code(o, row, col);
          take(2 * byte + shift / 4, halves);
        }
        for (int64_t group = 0; f.quantized() && group < l.groups(); ++group) {
          take(2 * l.scale(o, row, group), 2 * bytesOf(f.scale));
          if (f.zeros)
            take(2 * l.zero(o, row, group), 2);
        }
      }
  }
  int64_t outside = 0, shared = 0, used = 0;

private:
  void take(int64_t half, int64_t count) {
    for (int64_t i = half; i < half + count; ++i) {
      if (i < 0 || i >= int64_t(taken.size())) {
        ++outside;
        continue;
      }
      shared += taken[size_t(i)];
      taken[size_t(i)] = true;
      ++used;
    }
  }
  std::vector<bool> taken;
};

TEST(Layout, EachElementHasAPlaceOfItsOwn) {
  std::mt19937 random(1);
  const auto upTo = [&](int64_t most) { return 1 + int64_t(random()) % most; };
  for (int round = 0; round < 600; ++round) {
    const Kind kind = kKinds[random() % 6];
    const bool fragments = kind == Kind::Fragments || kind == Kind::FragmentsGateUp;
    WeightFormat format{kStorages[random() % 6]};
    const StorageInfo &info = infoOf(format.element);
    if (!info.weights || (fragments && format.element == Storage::F32))
      continue;
    int64_t cols = upTo(fragments ? 100 : 9);
    if (info.codes) {
      constexpr int64_t blocks[] = {16, 32, 64, 128, 70};
      format.group = fragments ? blocks[random() % 5] : upTo(20);
      format.scale = std::array{Storage::F16, Storage::BF16, Storage::F32}[random() % 3];
      format.zeros = info.mostZero && random() % 2;
      cols = format.group * (format.group == 70 ? 1 : upTo(3));
    }
    const int64_t headDim = kind == Kind::PanelHeads ? upTo(100) : 0;
    const bool gateUp = kind == Kind::PanelGateUp || kind == Kind::FragmentsGateUp;
    const int64_t rows = headDim ? headDim * upTo(4) : gateUp ? 2 * upTo(90) : upTo(180);
    const Shape shape = random() % 2 ? Shape{rows, cols} : Shape{upTo(2), upTo(2), rows, cols};
    const WeightLayout l = layout(shape, kind, format, headDim);
    const Places places(l);
    ASSERT_EQ(places.outside, 0) << nameOf(kind) << " " << nameOf(format) << " " << rows;
    ASSERT_EQ(places.shared, 0) << nameOf(kind) << " " << nameOf(format) << " " << rows;
    if (kind == Kind::Rows && !format.quantized())
      ASSERT_EQ(places.used, 2 * l.bytes());
  }
}

TEST(Layout, WholePanelsAndStripsHaveNoRoomLeft) {
  const WeightFormat formats[] = {{Storage::BF16},
                                  {Storage::I8, 64, Storage::F16},
                                  {Storage::F8E4M3, 128, Storage::F32},
                                  {Storage::I4, 32, Storage::BF16, true}};
  for (const WeightFormat &format : formats)
    for (Kind kind : kKinds) {
      const WeightLayout l = layout({2, 128, 256}, kind, format, 64);
      EXPECT_EQ(Places(l).used, 2 * l.bytes()) << nameOf(kind) << " " << nameOf(format);
    }
}

TEST(Layout, SaysWhyThereIsNone) {
  const WeightFormat bf16{Storage::BF16}, int4{Storage::I4, 16, Storage::F16};
  EXPECT_EQ(errorOf({64}, bf16, Kind::Panel), "is packed in panels, but is no matrix");
  EXPECT_EQ(errorOf({}, bf16, Kind::Fragments), "is packed in panels, but is no matrix");
  EXPECT_EQ(errorOf({3, 4}, bf16, Kind::PanelGateUp),
            "is packed as gate and up, but has an odd number of rows");
  EXPECT_EQ(errorOf({30, 4}, bf16, Kind::PanelHeads, 16),
            "is packed by heads, but its rows are not a multiple of the head dimension");
  EXPECT_EQ(errorOf({64, 24}, int4, Kind::Rows),
            "is packed in groups of 16, which do not divide its 24 columns");
  EXPECT_EQ(
      errorOf({64, 96}, {Storage::I4, 48, Storage::F16}, Kind::Fragments),
      "is packed in fragments of groups of 48, expected a multiple or a divisor of 64, or its "
      "96 columns");
  EXPECT_EQ(errorOf({64, 64}, {Storage::F16}, Kind::Rows),
            "is packed as f16, expected f32, bf16 or codes");
  EXPECT_EQ(errorOf({64, 64}, {Storage::F32}, Kind::Fragments),
            "is packed in fragments, which need bf16 or codes");
  for (const WeightFormat &format :
       {WeightFormat{Storage::BF16, 16}, WeightFormat{Storage::I4}, WeightFormat{Storage::I4, -16},
        WeightFormat{Storage::I8, 16, Storage::F16, true},
        WeightFormat{Storage::I4, 16, Storage::I8}})
    EXPECT_EQ(errorOf({64, 64}, format, Kind::Rows),
              "is packed as " + nameOf(format) + ", which is no format");
}

TEST(Layout, HostileNumbersOverflowNowhere) {
  constexpr int64_t most = std::numeric_limits<int64_t>::max(), limit = int64_t(1) << 48;
  const WeightFormat bf16{Storage::BF16};
  EXPECT_EQ(errorOf(Shape(8, int64_t(1) << 40), bf16, Kind::Rows),
            "has more elements than any machine holds");
  EXPECT_EQ(errorOf({most, most}, bf16, Kind::Panel), "has more elements than any machine holds");
  EXPECT_EQ(errorOf({limit / 2, 1}, bf16, Kind::PanelHeads, 1),
            "has more bytes than any machine holds");
  EXPECT_EQ(errorOf({limit, 1}, bf16, Kind::Rows), "has more bytes than any machine holds");
  EXPECT_EQ(errorOf({-1, 4}, bf16, Kind::Rows), "has the dimension -1");
  EXPECT_EQ(layout({0, 0, 64}, Kind::Panel, bf16).bytes(), 0);

  // Whatever there is has at most that many bytes, and at least those of its elements.
  const int64_t sizes[] = {0,
                           1,
                           2,
                           3,
                           16,
                           63,
                           64,
                           4096,
                           limit,
                           limit - 1,
                           limit + 1,
                           limit / 64,
                           int64_t(1) << 24,
                           most,
                           most - 1};
  std::mt19937 random(2);
  const auto any = [&] { return sizes[random() % std::size(sizes)]; };
  int made = 0;
  for (int round = 0; round < 300000; ++round) {
    WeightFormat format{kStorages[random() % 6]};
    if (infoOf(format.element).codes)
      format = {format.element, any(), kStorages[random() % 3],
                infoOf(format.element).mostZero && random() % 2};
    Shape shape(random() % 5);
    for (int64_t &dim : shape)
      dim = any();
    Result<WeightLayout> l =
        WeightLayout::create(shape, format, kKinds[random() % 6], random() % 2 ? any() : 64);
    if (!l)
      continue;
    ++made;
    const __int128 elements = __int128(l->outer) * l->rows * l->cols;
    ASSERT_GE(l->bytes(), 0);
    ASSERT_LE(l->bytes(), limit);
    ASSERT_GE(__int128(l->bytes()) * 8, elements * bitsOf(format.element));
  }
  EXPECT_GT(made, 10000);
}

} // namespace
