// Each reference op of the vision tower on values that can be checked by hand.
#include "dialects/moe/VisionReference.h"

#include <cmath>
#include <gtest/gtest.h>
#include <numeric>

using namespace moe::reference;

namespace {

void expectNear(View found, const Values &expected, float tolerance = 1e-6f) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(found[i], expected[i], tolerance) << "element " << i;
}

Values iota(size_t count) {
  Values values(count);
  std::iota(values.begin(), values.end(), 0.0f);
  return values;
}

constexpr Normalization kLlama4{1 / 255.0f, {0.5f, 0.5f, 0.5f}, {0.5f, 0.5f, 0.5f}};
// Leaves bytes as they are.
constexpr Normalization kBytes{1, {0, 0, 0}, {1, 1, 1}};

TEST(PixelValues, AreRoundedThreeTimes) {
  Values table = pixelValues(kLlama4);
  ASSERT_EQ(table.size(), 3u * 256);
  EXPECT_EQ(table[0], -1);
  EXPECT_EQ(table[1], -0.9921875f);
  EXPECT_EQ(table[127], -0.00390625f);
  EXPECT_EQ(table[128], 0.0078125f);
  EXPECT_EQ(table[255], 1);
  int differ = 0; // from the exact value, rounded once
  for (int byte = 0; byte < 256; ++byte) {
    differ += table[size_t(byte)] != roundToBfloat16(float((byte / 255.0 - 0.5) / 0.5));
    EXPECT_EQ(table[size_t(byte)], table[size_t(256 + byte)]);
    EXPECT_EQ(table[size_t(byte)], table[size_t(512 + byte)]);
  }
  EXPECT_EQ(differ, 128);
}

TEST(PixelValues, AreOfTheirChannel) {
  // A mean and a deviation are rounded to bfloat16 themselves: 1 + 1/512 is 1.
  Values table = pixelValues({1, {0, 1.0f + 1.0f / 512, 2}, {1, 4, 0.5f}});
  EXPECT_EQ(table[5], 5);
  EXPECT_EQ(table[256 + 5], 1);
  EXPECT_EQ(table[512 + 5], 6);
}

TEST(Patches, PutAChannelAfterTheOther) {
  // Two tiles of 4 x 4 pixels; the byte is 48 tile + 12 row + 3 column + channel.
  std::vector<uint8_t> tiles(2 * 4 * 4 * 3);
  std::iota(tiles.begin(), tiles.end(), uint8_t(0));
  Values rows = patches(tiles, 4, 2, kBytes);
  ASSERT_EQ(rows.size(), tiles.size());
  expectNear(View(rows).first(12), {0, 3, 12, 15, 1, 4, 13, 16, 2, 5, 14, 17});
  expectNear(View(rows).subspan(12, 12), {6, 9, 18, 21, 7, 10, 19, 22, 8, 11, 20, 23});
  expectNear(View(rows).subspan(24, 4), {24, 27, 36, 39}); // the second row of patches
  expectNear(View(rows).subspan(48, 4), {48, 51, 60, 63}); // the second tile
}

TEST(ClassRow, ComesAfterThePatches) {
  Values x{1, 2, 3, 4, 5, 6, 7, 8}, row{9, -9}; // eight tiles of one patch, or one of 2 x 2
  expectNear(appendClass(x, row, 2), {1, 2, 3, 4, 5, 6, 7, 8, 9, -9});
  expectNear(appendClass(View(x).first(4), row, 1), {1, 2, 9, -9, 3, 4, 9, -9});
  EXPECT_EQ(dropClass(appendClass(x, row, 1), 2, 1), x);
  EXPECT_EQ(dropClass(appendClass(x, row, 2), 2, 2), x);
  Values fine{1.0f + 1.0f / 512};
  EXPECT_EQ(appendClass(Values{1}, fine, 1, Rounding::Bfloat16)[1], 1);
}

TEST(AddPositions, StartsAgainWithEachTile) {
  Values x{1, 2, 3, 4, 5, 6, 7, 8}, table{10, 20, 30, 40};
  expectNear(addPositions(x, table), {11, 22, 33, 44, 15, 26, 37, 48});
  EXPECT_EQ(addPositions(Values{1}, Values{1.0f / 512}, Rounding::Bfloat16)[0], 1);
}

TEST(LayerNorm, TakesTheBiasedVariance) {
  Values x{1, 3, 10, 10}, weight{2, 3}, bias{10, 20};
  expectNear(layerNorm(View(x).first(2), {weight, bias, 0}), {8, 23}); // not 10 - sqrt 2
  expectNear(layerNorm(x, {weight, bias, 3}), {9, 21.5f, 10, 20});
}

TEST(LayerNorm, RoundsOnce) {
  // sqrt 2 * 1.5 + 0.01 = 2.13132 is nearer to 2.125 than to 2.140625, which is nearer if the
  // product is rounded before: 2.125 + 0.01.
  Values x{3, 0, 0}, weight{1.5f, 1, 1}, bias{0.01f, 0, 0};
  EXPECT_EQ(layerNorm(x, {weight, bias, 0}, Rounding::Bfloat16)[0], 2.125f);
  EXPECT_EQ(roundToBfloat16(2.125f + 0.01f), 2.140625f);
}

TEST(LinearBias, RoundsOnce) {
  Values x{1, 2, 3, 4}, weight{1, 0, 0, 1, 1, 1}, bias{10, 20, 30};
  expectNear(linearBias(x, weight, bias), {11, 22, 33, 13, 24, 37});
  // 1 + 1/256 + 1/512 is nearer to 1 + 2/256; rounded before the bias, it would be 1.
  Values ones(2, 1.0f), tiny{1, 1.0f / 256}, more{1.0f / 512};
  EXPECT_EQ(linearBias(ones, tiny, more, Rounding::Bfloat16)[0], 1.0f + 2.0f / 256);
  EXPECT_EQ(roundToBfloat16(linear(ones, tiny, 2, Rounding::Bfloat16)[0] + more[0]), 1.0f);
}

// Of a grid of 2 x 2 and heads of 8 channels: pairs 0 and 1 turn by the column, 2 and 3 by the row,
// both counted from 1.
TEST(PatchRope, TurnsByColumnThenRow) {
  const float theta = 100, slow = 0.1f; // 100^(-4/8)
  Values table = patchRopeTable(8, 2, theta);
  ASSERT_EQ(table.size(), 5u * 8);
  const float angles[5][4] = {{1, slow, 1, slow},
                              {2, 2 * slow, 1, slow},
                              {1, slow, 2, 2 * slow},
                              {2, 2 * slow, 2, 2 * slow},
                              {0, 0, 0, 0}};
  for (size_t r = 0; r < 5; ++r)
    for (size_t pair = 0; pair < 4; ++pair) {
      EXPECT_NEAR(table[r * 8 + 2 * pair], std::cos(angles[r][pair]), 1e-6) << r << " " << pair;
      EXPECT_NEAR(table[r * 8 + 2 * pair + 1], std::sin(angles[r][pair]), 1e-6) << r << pair;
    }

  // Two tiles of two heads, all (1, 0) or (0, 1): the first column of the rotation, or the second.
  Values x(size_t(2 * 5 * 2 * 8));
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = (i / 8) % 2 == i % 2; // in the heads by turns
  Values turned = patchRope(x, 2, 8, 2, theta);
  ASSERT_EQ(turned.size(), x.size());
  for (size_t i = 0; i < x.size(); i += 2) {
    const size_t pair = i / 2 % 4, r = i / 16 % 5;
    const float c = std::cos(angles[r][pair]), s = std::sin(angles[r][pair]);
    EXPECT_NEAR(turned[i], x[i] * c - x[i + 1] * s, 1e-6) << i;
    EXPECT_NEAR(turned[i + 1], x[i] * s + x[i + 1] * c, 1e-6) << i;
  }
}

TEST(TileAttention, SeesAllOfItsTile) {
  // Equal keys: the mean of a tile's values, 0 to 1 and 2 to 3, its class row's included.
  Values values = iota(4), zeros(4, 0.0f);
  expectNear(tileAttention(zeros, zeros, values, 1, 1, 1), {0.5f, 0.5f, 2.5f, 2.5f});
}

TEST(TileAttention, ScalesByTheRootOfTheHeadDimension) {
  // Two heads of 4: scores of the first ln 1 and ln 3, of the second equal.
  Values keys(16, 0.0f), queries(16, 0.0f), values(16, 0.0f);
  keys[8] = 2 * std::log(3.0f);
  queries[0] = queries[8] = 1;
  values[0] = 8, values[8] = 4, values[4] = 8, values[12] = 4;
  Values expected(16, 0.0f);
  expected[0] = expected[8] = 5;
  expected[4] = expected[12] = 6;
  expectNear(tileAttention(queries, keys, values, 2, 4, 1), expected);
}

TEST(Gelu, IsTheExactOne) {
  // x times the normal distribution's function at x. With tanh that at 1 would be 0.841192.
  expectNear(gelu(Values{0, 1, -1, 3, -10}),
             {0, 0.841344746f, -0.158655254f, 2.99595031f, -7.61985302e-23f}, 1e-7f);
  EXPECT_EQ(gelu(Values{1}, Rounding::Bfloat16)[0], 0.83984375f);
}

TEST(PixelShuffle, TakesTwoByTwo) {
  expectNear(pixelShuffle(iota(16), 1, 4), {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15});
  // Two tiles of 2 x 2 patches of two channels: channels stay together.
  Values two = iota(16);
  EXPECT_EQ(pixelShuffle(two, 2, 2), two);
}

TEST(Embed, TakesRowsOfImages) {
  std::vector<int32_t> tokens{2, 0, 1, 0}, rows{-1, 1, -1, 0};
  Values table{1, 2, 3, 4, 5, 6}, images{10, 20, 30, 40};
  expectNear(embedWithImages(tokens, table, images, rows, 2), {5, 6, 30, 40, 3, 4, 10, 20});
}

TEST(Projection, IsWhatItIsMadeOf) {
  Values x{1, 3}, weight{1, 1, 2, 0}, bias{1, 2}, gain{2, 3}, shift{0, 1}, residual{100, 200};
  LayerNorm norm{gain, shift, 0}; // -2 and 4
  expectNear(projection(x, weight, 2, {}), {4, 2});
  expectNear(projection(x, weight, 2, {.norm = norm, .bias = bias, .residual = {}}), {3, -2});
  expectNear(
      projection(x, weight, 2, {.norm = norm, .bias = bias, .gelu = true, .residual = residual}),
      {100 + 2.99595031f, 200 - 0.0455002639f}, 1e-5f);
}

TEST(Vision, OfNoTilesIsEmpty) {
  Values row{1, 2}, weight{1, 2, 3, 4};
  LayerNorm norm{row, row, 1};
  EXPECT_TRUE(patches({}, 4, 2, kBytes).empty());
  EXPECT_TRUE(appendClass({}, row, 2).empty());
  EXPECT_TRUE(layerNorm({}, norm).empty());
  EXPECT_TRUE(patchRope({}, 1, 4, 2, 10).empty());
  EXPECT_TRUE(tileAttention({}, {}, {}, 1, 4, 2).empty());
  EXPECT_TRUE(linearBias({}, weight, row).empty());
  EXPECT_TRUE(towerOutput({}, norm, 2).empty());
}

} // namespace
