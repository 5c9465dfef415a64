#include "runtime/vision/Picture.h"

#include "runtime/vision/Ppm.h"
#include "runtime/vision/TestPictures.h"
#include "runtime/vision/ToRgb.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

using namespace moe;

namespace {

std::span<const std::byte> bytes(const std::string &text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Two rows: a b c, d e f.
const Picture kSix{3, 2, {'a', 1, 2, 'b', 1, 2, 'c', 1, 2, 'd', 1, 2, 'e', 1, 2, 'f', 1, 2}};

std::string letters(const Picture &picture) {
  std::string text;
  for (size_t i = 0; i < picture.rgb.size(); i += 3) {
    text += i && i / 3 % size_t(picture.width) == 0 ? "/" : "";
    text += char(picture.rgb[i]);
    EXPECT_EQ(picture.rgb[i + 1], 1);
    EXPECT_EQ(picture.rgb[i + 2], 2);
  }
  return text;
}

TEST(Picture, TurnsInEightWays) {
  using enum Orientation;
  const std::pair<Orientation, const char *> turned[] = {
      {AsItIs, "abc/def"},          {MirrorLeftRight, "cba/fed"}, {Rotate180, "fed/cba"},
      {MirrorTopBottom, "def/abc"}, {Transpose, "ad/be/cf"},      {Rotate90, "da/eb/fc"},
      {Transverse, "fc/eb/da"},     {Rotate270, "cf/be/ad"}};
  for (const auto &[orientation, expected] : turned)
    EXPECT_EQ(letters(orient(kSix, orientation)), expected) << int(orientation);
}

// A picture that lies on its side is cut into other tiles.
TEST(Picture, TurnedHasAnotherGrid) {
  const Picture lying = formulaPicture(480, 700);
  EXPECT_EQ(cutTiles(lying, {})->grid, (Grid{2, 3}));
  EXPECT_EQ(cutTiles(orient(lying, Orientation::Rotate90), {})->grid, (Grid{3, 2}));
}

TEST(Picture, HasLimits) {
  EXPECT_TRUE(bool(checkPictureSize(1, 1)));
  EXPECT_TRUE(bool(checkPictureSize(16384, 3051)));
  for (const auto &[width, height] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 1},
                                                {1, 0},
                                                {-1, 1},
                                                {16385, 1},
                                                {1, 16385},
                                                {7072, 7072},
                                                {1 << 30, 1 << 30},
                                                {INT64_MAX, INT64_MAX},
                                                {INT64_MIN, 5}})
    EXPECT_FALSE(bool(checkPictureSize(width, height))) << width << " " << height;
}

TEST(ToRgb, LaysOverWhite) {
  for (int value = 0; value < 256; ++value)
    for (int alpha = 0; alpha < 256; ++alpha) {
      const double exact = (value * alpha + 255.0 * (255 - alpha)) / 255;
      ASSERT_EQ(overWhite(uint8_t(value), uint8_t(alpha)), std::floor(exact + 0.5));
    }
  EXPECT_EQ(overWhite(17, 0), 255); // what is hidden stays hidden
  EXPECT_EQ(overWhite(17, 255), 17);
}

TEST(ToRgb, TakesTheHighByte) {
  EXPECT_EQ(highByte(0xffff), 255);
  EXPECT_EQ(highByte(0x8000), 128);
  EXPECT_EQ(highByte(0x80ff), 128);
  EXPECT_EQ(highByte(255), 0);
}

TEST(ToRgb, PrintsInks) {
  for (int ink = 0; ink < 256; ++ink)
    for (int black = 0; black < 256; ++black) {
      // As Pillow has it, in integers.
      const int rest = 255 - black, product = ink * rest + 128;
      ASSERT_EQ(fromInks(uint8_t(ink), uint8_t(black)), rest - (((product >> 8) + product) >> 8));
    }
  EXPECT_EQ(fromInks(0, 128), 127);
}

TEST(ToRgb, ReadsRows) {
  const uint8_t values[] = {200, 100, 50, 0, 10, 20, 30, 255};
  uint8_t rgb[24];
  const auto is = [&](std::vector<uint8_t> expected) {
    EXPECT_EQ(std::vector<uint8_t>(rgb, rgb + expected.size()), expected);
  };
  greyToRgb(values, 2, rgb);
  is({200, 200, 200, 100, 100, 100});
  greyAndAlphaToRgb(values, 2, rgb);
  is({overWhite(200, 100), overWhite(200, 100), overWhite(200, 100), 255, 255, 255});
  rgbAndAlphaToRgb(values, 2, rgb);
  is({255, 255, 255, 10, 20, 30});
  invertedInksToRgb(values, 2, rgb);
  is({0, 0, 0, 10, 20, 30});
}

TEST(Ppm, IsRead) {
  for (const std::string header : {"P6 3 2 255\n", "P6\n3 2\n255\n", "P6\t3\r\n2\v255\f",
                                   "P6\n# made by hand\n3 # wide\n#\n2\n255\n", "P6#x\n3 2 255 "}) {
    const std::string file = header + std::string(kSix.rgb.begin(), kSix.rgb.end());
    EXPECT_TRUE(isPpm(bytes(file)));
    const Result<Picture> picture = readPpm(bytes(file));
    ASSERT_TRUE(bool(picture)) << picture.error().message;
    EXPECT_EQ(*picture, kSix);
  }
}

TEST(Ppm, SaysWhatIsWrong) {
  const std::string pixels(18, 'x');
  const std::pair<std::string, const char *> files[] = {
      {"", "is cut short"},
      {"P", "is cut short"},
      {"P6", "is cut short"},
      {"P6 3 2 255", "is cut short"},
      {"P6 3 2 255\n" + pixels.substr(1), "is cut short"},
      {"P6 3 2 255\n" + pixels + "y", "goes on after its last pixel, by 1 bytes"},
      {"P5 3 2 255\n" + pixels, "does not begin with P6"},
      {"\x89PNG", "does not begin with P6"},
      {"P63 2 255\n" + pixels, "no width, height and largest value"},
      {"P6 3 -2 255\n" + pixels, "no width, height and largest value"},
      {"P6 3 2 255x" + pixels, "no white space"},
      {"P6 0 2 255\n", "has 0x2 pixels"},
      {"P6 3 0 255\n", "has 3x0 pixels"},
      {"P6 100000 100000 255\n", "has 100000x100000 pixels"},
      {"P6 10000 10000 255\n", "50 million"},
      {"P6 9999999999 1 255\n", "a number of more than 9 digits"},
      {"P6 3 2 65535\n" + pixels + pixels, "values up to 65535"},
      {"P6 3 2 0\n" + pixels, "values up to 0"},
      {"P6 #" + std::string(5000, '-') + "\n3 2 255\n" + pixels, "a header of more than 4096"},
      {"P6" + std::string(5000, ' ') + "3 2 255\n" + pixels, "a header of more than 4096"},
  };
  for (const auto &[file, why] : files) {
    const Result<Picture> picture = readPpm(bytes(file));
    ASSERT_FALSE(bool(picture)) << file;
    EXPECT_EQ(picture.error().code, Code::InvalidArgument);
    EXPECT_NE(picture.error().message.find(why), std::string::npos)
        << file.substr(0, 20) << ": " << picture.error().message;
  }
}

// Frames that arrive byte by byte are known when they are whole, and never before.
TEST(Ppm, ComesInFrames) {
  const std::string one = "P6\n3 2\n255\n" + std::string(kSix.rgb.begin(), kSix.rgb.end());
  const std::string two = one + "P6\n1 1\n255\nabc";
  for (size_t size = 0; size < one.size(); ++size) {
    const auto frame = readPpmFrame(bytes(two.substr(0, size)));
    ASSERT_TRUE(bool(frame)) << size;
    ASSERT_FALSE(frame->has_value()) << size;
  }
  const auto first = readPpmFrame(bytes(two));
  ASSERT_TRUE(bool(first) && first->has_value());
  EXPECT_EQ((*first)->picture, kSix);
  EXPECT_EQ((*first)->bytes, one.size());
  const auto second = readPpmFrame(bytes(two.substr(one.size())));
  EXPECT_EQ((*second)->picture, (Picture{1, 1, {'a', 'b', 'c'}}));
}

TEST(Ppm, SurvivesDamage) {
  const std::string good = "P6\n# c\n3 2\n255\n" + std::string(kSix.rgb.begin(), kSix.rgb.end());
  std::mt19937 random(5);
  for (int i = 0; i < 20000; ++i) {
    std::string file = good.substr(0, random() % 4 ? good.size() : random() % good.size());
    for (uint32_t count = random() % 4; count > 0 && !file.empty(); --count)
      file[random() % std::min<size_t>(file.size(), 20)] = "0123456789 #\nP6\xff-"[random() % 17];
    if (const Result<Picture> picture = readPpm(bytes(file)))
      EXPECT_TRUE(bool(checkPicture(*picture)));
    else
      EXPECT_FALSE(picture.error().message.empty());
  }
}

} // namespace
