#include "runtime/vision/Resize.h"

#include "runtime/vision/TestPictures.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

using namespace moe;

namespace {

// One row, in plain loops: weights of at most `bits` bits with their sign, or float64 for 0.
std::vector<uint8_t> resizeRow(const std::vector<uint8_t> &row, int32_t to, int bits) {
  const int32_t from = int32_t(row.size());
  const double scale = double(from) / to, width = std::max(scale, 1.0);
  std::vector<std::vector<double>> all;
  std::vector<int32_t> starts;
  double largest = 0;
  for (int32_t i = 0; i < to; ++i) {
    const double center = (i + 0.5) * scale;
    const int32_t low = std::max(0, int32_t(center - width + 0.5));
    const int32_t high = std::min(from, int32_t(center + width + 0.5));
    std::vector<double> weights;
    double sum = 0;
    for (int32_t j = low; j < high; ++j) {
      weights.push_back(std::max(0.0, 1 - std::fabs((j - center + 0.5) * (1 / width))));
      sum += weights.back();
    }
    for (double &weight : weights)
      largest = std::max(largest, weight /= sum);
    all.push_back(weights);
    starts.push_back(low);
  }
  int shift = 0;
  while (shift < 22 && std::floor(0.5 + largest * std::ldexp(1, shift + 1)) < std::ldexp(1, bits))
    ++shift;
  std::vector<uint8_t> out;
  for (int32_t i = 0; i < to; ++i) {
    int64_t sum = shift > 0 ? int64_t(1) << (shift - 1) : 0;
    double exact = 0.5;
    for (size_t j = 0; j < all[size_t(i)].size(); ++j) {
      const double weight = all[size_t(i)][j], value = row[size_t(starts[size_t(i)]) + j];
      sum += int64_t(std::floor(0.5 + weight * std::ldexp(1, shift))) * int64_t(value);
      exact += weight * value;
    }
    out.push_back(uint8_t(std::clamp<int64_t>(bits == 0 ? int64_t(exact) : sum >> shift, 0, 255)));
  }
  return out;
}

Picture resizePlainly(const Picture &picture, int32_t height, int32_t width, int bits) {
  const auto value = [](const Picture &p, int32_t y, int32_t x, int32_t c) -> size_t {
    return (size_t(y) * size_t(p.width) + size_t(x)) * 3 + size_t(c);
  };
  Picture wide = picture;
  if (width != picture.width) {
    wide = {width, picture.height,
            std::vector<uint8_t>(size_t(picture.height) * size_t(width) * 3)};
    for (int32_t y = 0; y < picture.height; ++y)
      for (int32_t c = 0; c < 3; ++c) {
        std::vector<uint8_t> row;
        for (int32_t x = 0; x < picture.width; ++x)
          row.push_back(picture.rgb[value(picture, y, x, c)]);
        row = resizeRow(row, width, bits);
        for (int32_t x = 0; x < width; ++x)
          wide.rgb[value(wide, y, x, c)] = row[size_t(x)];
      }
  }
  if (height == picture.height)
    return wide;
  Picture out{width, height, std::vector<uint8_t>(size_t(height) * size_t(width) * 3)};
  for (int32_t x = 0; x < width; ++x)
    for (int32_t c = 0; c < 3; ++c) {
      std::vector<uint8_t> column;
      for (int32_t y = 0; y < picture.height; ++y)
        column.push_back(wide.rgb[value(wide, y, x, c)]);
      column = resizeRow(column, height, bits);
      for (int32_t y = 0; y < height; ++y)
        out.rgb[value(out, y, x, c)] = column[size_t(y)];
    }
  return out;
}

Picture noise(std::mt19937 &random, int32_t height, int32_t width) {
  Picture picture{width, height, std::vector<uint8_t>(size_t(height) * size_t(width) * 3)};
  for (uint8_t &value : picture.rgb)
    value = uint8_t(random());
  return picture;
}

int32_t side(std::mt19937 &random) { return int32_t(1 + random() % (2u << random() % 7)); }

TEST(Resize, IsThatOfPlainLoops) {
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    const Picture picture = noise(random, side(random), side(random));
    const int32_t height = side(random), width = side(random);
    ASSERT_EQ(resize(picture, height, width), resizePlainly(picture, height, width, 15))
        << picture.height << "x" << picture.width << " to " << height << "x" << width;
  }
}

// Pillow's weights have 22 bits, a GPU's are float: each is another reference, and this tells them
// apart, although they differ by one level in few places.
TEST(Resize, HasWeightsOf15Bits) {
  std::mt19937 random(2);
  const Picture picture = noise(random, 90, 150);
  const Picture ours = resize(picture, 61, 83);
  for (const int bits : {22, 0}) {
    const Picture other = resizePlainly(picture, 61, 83, bits);
    int differ = 0;
    for (size_t i = 0; i < ours.rgb.size(); ++i) {
      differ += ours.rgb[i] != other.rgb[i];
      ASSERT_LE(std::abs(ours.rgb[i] - other.rgb[i]), 1);
    }
    EXPECT_GT(differ, 0) << bits;
    EXPECT_LT(differ, int(ours.rgb.size() / 50)) << bits;
  }
}

TEST(Resize, KeepsASideThatKeepsItsLength) {
  std::mt19937 random(3);
  const Picture picture = noise(random, 17, 23);
  EXPECT_EQ(resize(picture, 17, 23), picture);
  EXPECT_EQ(resize(picture, 5, 23), resizePlainly(picture, 5, 23, 15));
  EXPECT_EQ(resize(picture, 17, 50), resizePlainly(picture, 17, 50, 15));
}

TEST(Resize, TakesASinglePixel) {
  const Picture pixel{1, 1, {7, 128, 255}};
  const Picture large = resize(pixel, 40, 33);
  ASSERT_EQ(large.rgb.size(), 40u * 33 * 3);
  for (size_t i = 0; i < large.rgb.size(); ++i)
    ASSERT_EQ(large.rgb[i], pixel.rgb[i % 3]);
  EXPECT_EQ(resize(Picture{2, 1, {0, 10, 20, 255, 11, 23}}, 1, 1).rgb,
            (std::vector<uint8_t>{128, 11, 22})); // the mean, halves up
}

// Weights of a picture of one colour sum to 1 up to their rounding, which the sum's rounding takes.
TEST(Resize, KeepsAColour) {
  std::mt19937 random(4);
  for (const uint8_t level : {0, 1, 127, 254, 255})
    for (int i = 0; i < 20; ++i) {
      Picture picture = noise(random, side(random), side(random));
      picture.rgb.assign(picture.rgb.size(), level);
      for (const uint8_t value : resize(picture, side(random), side(random)).rgb)
        ASSERT_EQ(value, level);
    }
}

} // namespace
