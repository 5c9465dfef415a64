#include "runtime/vision/Grid.h"

#include "runtime/vision/TestPictures.h"

#include <gtest/gtest.h>

using namespace moe;

namespace {

constexpr int32_t kTile = 336, kMost = 16;

PictureSize fit(PictureSize picture) {
  return fitToGrid(picture, chooseGrid(picture, kTile, kMost), kTile);
}

TEST(Grid, IsThatOfTheGoldenPictures) {
  for (const GoldenPicture &golden : VisionGoldens::get().pictures) {
    SCOPED_TRACE(std::to_string(golden.size.height) + "x" + std::to_string(golden.size.width));
    EXPECT_EQ(chooseGrid(golden.size, kTile, kMost), golden.grid);
    EXPECT_EQ(fit(golden.size), golden.resized);
  }
}

TEST(Grid, IsThatOfTenThousandRandomSizes) {
  RandomSizes random(1);
  const std::vector<std::string> &groups = VisionGoldens::get().grids;
  ASSERT_EQ(groups.size(), 100u);
  for (size_t group = 0; group < groups.size(); ++group) {
    Checksum sum;
    for (int i = 0; i < 100; ++i) {
      PictureSize size;
      size.height = random.side(14);
      size.width = random.side(14);
      const Grid grid = chooseGrid(size, kTile, kMost);
      const PictureSize fitted = fitToGrid(size, grid, kTile);
      for (const int32_t number :
           {size.height, size.width, grid.rows, grid.columns, fitted.height, fitted.width})
        sum.add(number);
    }
    EXPECT_EQ(sum.text(), groups[group]) << "sizes " << 100 * group << " to " << 100 * group + 99;
  }
}

// In float64 throughout this height would be 3425, since the quotient is a little smaller.
TEST(Grid, RoundsToFloat32WhereTheCanvasCuts) {
  EXPECT_EQ(fit({616, 6281}), (PictureSize{336, 3426}));
}

TEST(Grid, EnlargesAsLittleAsPossible) {
  EXPECT_EQ(chooseGrid({337, 336}, kTile, kMost), (Grid{2, 1}));
  EXPECT_EQ(chooseGrid({672, 672}, kTile, kMost), (Grid{2, 2}));
  EXPECT_EQ(chooseGrid({673, 672}, kTile, kMost), (Grid{3, 2}));
  EXPECT_EQ(fit({672, 672}), (PictureSize{672, 672}));
}

TEST(Grid, HoldsWhatItPromises) {
  RandomSizes random(3);
  for (int i = 0; i < 20000; ++i) {
    const int32_t tile = random.side(10), most = random.side(5);
    PictureSize size;
    size.height = random.side(14);
    size.width = random.side(14);
    const Grid grid = chooseGrid(size, tile, most);
    const PictureSize fitted = fitToGrid(size, grid, tile);
    ASSERT_GE(grid.rows, 1);
    ASSERT_GE(grid.columns, 1);
    ASSERT_LE(grid.count(), most);
    ASSERT_GE(std::min(fitted.height, fitted.width), 1);
    ASSERT_LE(fitted.height, std::min(std::max(size.height, tile), grid.rows * tile));
    ASSERT_LE(fitted.width, std::min(std::max(size.width, tile), grid.columns * tile));
  }
}

} // namespace
