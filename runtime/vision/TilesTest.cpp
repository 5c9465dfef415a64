#include "runtime/vision/Tiles.h"

#include "runtime/vision/TestPictures.h"

#include <gtest/gtest.h>

using namespace moe;

namespace {

VisionFormat format() {
  VisionFormat format;
  format.imageStart = 200080;
  format.imageEnd = 200081;
  format.tileXSeparator = 200084;
  format.tileYSeparator = 200085;
  format.image = 200090;
  format.patch = 200092;
  return format;
}

// "start patch*144 tile_x ..", as golden.json has it.
std::string runs(const std::vector<int32_t> &tokens) {
  const std::map<int32_t, std::string> names = {{200080, "start"},  {200081, "end"},
                                                {200084, "tile_x"}, {200085, "tile_y"},
                                                {200090, "image"},  {200092, "patch"}};
  std::string text;
  for (size_t at = 0; at < tokens.size();) {
    size_t end = at;
    while (end < tokens.size() && tokens[end] == tokens[at])
      ++end;
    text += (at ? " " : "") + names.at(tokens[at]);
    if (end - at > 1)
      text += "*" + std::to_string(end - at);
    at = end;
  }
  return text;
}

TEST(Tiles, AreThoseOfTheGoldenPictures) {
  ASSERT_EQ(VisionGoldens::get().pictures.size(), 22u);
  for (const GoldenPicture &golden : VisionGoldens::get().pictures) {
    SCOPED_TRACE(std::to_string(golden.size.height) + "x" + std::to_string(golden.size.width));
    const Picture picture = formulaPicture(golden.size.height, golden.size.width);
    ASSERT_EQ(checksum(picture.rgb), golden.picture);
    const Result<Tiles> tiles = cutTiles(picture, format());
    ASSERT_TRUE(bool(tiles));
    EXPECT_EQ(tiles->grid, golden.grid);
    EXPECT_EQ(checksums(*tiles), golden.tiles);
  }
}

TEST(Tiles, MayBeFewer) {
  for (const GoldenPicture &golden : VisionGoldens::get().fewer) {
    SCOPED_TRACE(std::to_string(golden.size.height) + "x" + std::to_string(golden.size.width) +
                 ", at most " + std::to_string(golden.maxTiles));
    const Picture picture = formulaPicture(golden.size.height, golden.size.width);
    const Result<Tiles> tiles = cutTiles(picture, format(), golden.maxTiles);
    ASSERT_TRUE(bool(tiles));
    EXPECT_EQ(tiles->grid, golden.grid);
    EXPECT_EQ(checksums(*tiles), golden.tiles);
    VisionFormat fewer = format(); // the plan's number means the same
    fewer.maxTiles = golden.maxTiles;
    EXPECT_EQ(cutTiles(picture, fewer)->pixels, tiles->pixels);
  }
}

TEST(Tiles, AreThoseOfTenThousandRandomSizes) {
  RandomSizes random(2);
  VisionFormat small = format();
  small.tile = 28;
  const std::vector<std::string> &groups = VisionGoldens::get().random;
  ASSERT_EQ(groups.size(), 100u);
  for (size_t group = 0; group < groups.size(); ++group) {
    Checksum sum;
    for (int i = 0; i < 100; ++i) {
      const int32_t height = random.side(8), width = random.side(8);
      sum.add(cutTiles(formulaPicture(height, width), small)->pixels);
    }
    EXPECT_EQ(sum.text(), groups[group])
        << "pictures " << 100 * group << " to " << 100 * group + 99;
  }
}

TEST(Tiles, HaveTokens) {
  for (const GoldenPicture &golden : VisionGoldens::get().pictures)
    EXPECT_EQ(runs(imageTokens(golden.grid, format())), golden.layout);
  VisionFormat tiny = format();
  tiny.rowsPerTile = 1;
  EXPECT_EQ(runs(imageTokens({2, 2}, tiny)),
            "start patch tile_x patch tile_y patch tile_x patch tile_y image patch end");
  EXPECT_EQ(runs(imageTokens({1, 2}, tiny)), "start patch tile_x patch tile_y image patch end");
  EXPECT_EQ(runs(imageTokens({2, 1}, tiny)), "start patch tile_y patch tile_y image patch end");
  EXPECT_EQ(runs(imageTokens({1, 1}, tiny)), "start image patch end");
}

// A patch token for each row of each tile, in all grids.
TEST(Tiles, HaveAsManyTokensAsRows) {
  for (int32_t rows = 1; rows <= 16; ++rows)
    for (int32_t columns = 1; rows * columns <= 16; ++columns) {
      const Grid grid{rows, columns};
      const std::vector<int32_t> tokens = imageTokens(grid, format());
      Tiles tiles;
      tiles.grid = grid;
      EXPECT_EQ(std::count(tokens.begin(), tokens.end(), format().patch), 144 * tiles.count());
      EXPECT_EQ(int64_t(tokens.size()), imageTokenCount(grid, format()));
    }
  EXPECT_EQ(imageTokenCount({1, 1}, format()), 147);
  EXPECT_EQ(imageTokenCount({3, 5}, format()), 2322);
  EXPECT_EQ(imageTokenCount({4, 4}, format()), 2467);
}

TEST(Tiles, RefuseWhatIsNoPicture) {
  const auto refuses = [](const PictureView &picture, int32_t maxTiles, const std::string &why) {
    const Result<Tiles> tiles = cutTiles(picture, format(), maxTiles);
    ASSERT_FALSE(bool(tiles));
    EXPECT_EQ(tiles.error().code, Code::InvalidArgument);
    EXPECT_NE(tiles.error().message.find(why), std::string::npos) << tiles.error().message;
  };
  const std::vector<uint8_t> bytes(12);
  refuses({0, 2, bytes}, 0, "has 0x2 pixels");
  refuses({2, -2, bytes}, 0, "has 2x-2 pixels");
  refuses({2, 3, bytes}, 0, "has 12 bytes, and 2x3 pixels of red, green and blue have 18");
  refuses({2, 1, bytes}, 0, "have 6");
  refuses({kMaxPictureSide + 1, 1, bytes}, 0, "at most 16384 a side");
  refuses({10000, 10000, bytes}, 0, "50 million");
  refuses({2, 2, bytes}, 17, "1 to 16 tiles, not 17");
  refuses({2, 2, bytes}, -1, "1 to 16 tiles, not -1");
}

// Mistakes that were made elsewhere. Each has a golden picture that shows it: one tile, or one that
// is symmetric, would hide some of them.
class Traps : public testing::Test {
protected:
  const GoldenPicture &golden = VisionGoldens::get().of(1080, 1920); // 3x5, 945x1680
  const Picture picture = formulaPicture(1080, 1920);
  const Tiles tiles = *cutTiles(picture, format());
  const size_t tileBytes = tiles.pixels.size() / size_t(tiles.count());

  void SetUp() override { ASSERT_EQ(checksums(tiles), golden.tiles); }
};

TEST_F(Traps, WholePictureFirst) {
  Tiles wrong = tiles;
  std::rotate(wrong.pixels.begin(), wrong.pixels.end() - ptrdiff_t(tileBytes), wrong.pixels.end());
  EXPECT_NE(checksums(wrong), golden.tiles);
}

TEST_F(Traps, TilesColumnByColumn) {
  Tiles wrong = tiles;
  for (size_t row = 0, columns = 5, rows = 3; row < rows; ++row)
    for (size_t column = 0; column < columns; ++column)
      std::copy_n(&tiles.pixels[(row * columns + column) * tileBytes], tileBytes,
                  &wrong.pixels[(column * rows + row) * tileBytes]);
  EXPECT_NE(checksums(wrong), golden.tiles);
}

TEST_F(Traps, BlueFirst) {
  Picture swapped = picture;
  for (size_t i = 0; i < swapped.rgb.size(); i += 3)
    std::swap(swapped.rgb[i], swapped.rgb[i + 2]);
  const std::vector<std::string> wrong = checksums(*cutTiles(swapped, format()));
  for (size_t i = 0; i < wrong.size(); ++i)
    EXPECT_NE(wrong[i], golden.tiles[i]);
}

TEST_F(Traps, RowsAndColumnsExchanged) {
  const Picture turned = orient(picture, Orientation::Transpose);
  EXPECT_EQ(cutTiles(turned, format())->grid, (Grid{5, 3}));
}

// The padding is below and to the right: these tiles end in black.
TEST_F(Traps, CentredInItsCanvas) {
  const GoldenPicture &tall = VisionGoldens::get().of(100, 100);
  EXPECT_EQ(tall.resized, (PictureSize{336, 336}));
  const Tiles padded = *cutTiles(picture, format());
  const auto isBlack = [&](size_t tile, size_t y) {
    const uint8_t *row = &padded.pixels[tile * tileBytes + y * 336 * 3];
    return std::all_of(row, row + 336 * 3, [](uint8_t value) { return value == 0; });
  };
  EXPECT_FALSE(isBlack(10, 945 - 2 * 336 - 1));
  for (size_t y = 945 - 2 * 336; y < 336; ++y)
    EXPECT_TRUE(isBlack(10, y));
  EXPECT_FALSE(isBlack(15, 335)); // the whole is squeezed, not padded
}

// Each side's nearest two pixels alone, as a filter without antialias takes them.
TEST_F(Traps, NoAntialias) {
  Picture wrong{336, 336, {}};
  for (int32_t y = 0; y < 336; ++y)
    for (int32_t x = 0; x < 336; ++x)
      for (size_t c = 0; c < 3; ++c) {
        const double fromY = (y + 0.5) * 1080 / 336 - 0.5, fromX = (x + 0.5) * 1920 / 336 - 0.5;
        const size_t top = size_t(fromY), left = size_t(fromX);
        const auto at = [&](size_t row, size_t column) {
          return double(picture.rgb[(row * 1920 + column) * 3 + c]);
        };
        const double downward = fromY - double(top), rightward = fromX - double(left);
        const double value =
            (at(top, left) * (1 - rightward) + at(top, left + 1) * rightward) * (1 - downward) +
            (at(top + 1, left) * (1 - rightward) + at(top + 1, left + 1) * rightward) * downward;
        wrong.rgb.push_back(uint8_t(value + 0.5));
      }
  EXPECT_NE(checksum(wrong.rgb), golden.tiles.back());
}

TEST_F(Traps, SeparatorsLeftOut) {
  std::vector<int32_t> tokens = imageTokens(golden.grid, format());
  ASSERT_EQ(runs(tokens), golden.layout);
  std::vector<int32_t> last = tokens; // the tile_y after the last row
  last.erase(last.end() - 147);
  EXPECT_NE(runs(last), golden.layout);
  EXPECT_EQ(tokens[tokens.size() - 147], format().tileYSeparator);
  std::erase(tokens, format().tileXSeparator);
  EXPECT_NE(runs(tokens), golden.layout);
}

} // namespace
