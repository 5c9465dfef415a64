#include "tools/moe-media/Exif.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

using namespace moe;

namespace {

std::span<const std::byte> bytes(const std::string &text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string number(uint32_t value, size_t size, bool big) {
  std::string text(size, 0);
  for (size_t i = 0; i < size; ++i)
    text[i] = char(value >> 8 * (big ? size - 1 - i : i));
  return text;
}

// One directory with another entry before the orientation.
std::string block(bool big, uint32_t orientation, uint32_t type = 3, uint32_t tag = 0x112) {
  return (big ? "MM" : "II") + number(42, 2, big) + number(8, 4, big) + number(2, 2, big) +
         number(0x10f, 2, big) + number(2, 2, big) + number(4, 4, big) + "abc" + '\0' +
         number(tag, 2, big) + number(type, 2, big) + number(1, 4, big) +
         number(orientation, 2, big) + number(0, 2, big) + number(0, 4, big);
}

TEST(Exif, TellsTheOrientation) {
  for (uint32_t value = 1; value <= 8; ++value)
    for (const bool big : {false, true}) {
      EXPECT_EQ(exifOrientation(bytes(block(big, value))), Orientation(value));
      EXPECT_EQ(exifOrientation(bytes(std::string("Exif\0\0", 6) + block(big, value))),
                Orientation(value));
    }
}

TEST(Exif, LetsAPictureBeWhereItSaysNothing) {
  const std::string files[] = {"",
                               "II*",
                               "Exif",
                               block(false, 0),
                               block(false, 9),
                               block(false, 65535),
                               block(false, 6, 4),        // another type
                               block(false, 6, 3, 0x113), // another tag
                               "IM" + block(false, 6).substr(2),
                               "II" + block(true, 6).substr(2),
                               block(false, 6).substr(0, 24), // cut before the entry
                               "II" + number(42, 2, false) + number(0xffffffff, 4, false)};
  for (const std::string &file : files)
    EXPECT_EQ(exifOrientation(bytes(file)), Orientation::AsItIs);
}

TEST(Exif, SurvivesDamage) {
  std::mt19937 random(1);
  for (int i = 0; i < 50000; ++i) {
    std::string file = block(random() % 2, 6);
    for (uint32_t count = 1 + random() % 3; count > 0; --count)
      file[random() % file.size()] = char(random());
    file.resize(random() % (file.size() + 1));
    const Orientation orientation = exifOrientation(bytes(file));
    ASSERT_GE(int(orientation), 1);
    ASSERT_LE(int(orientation), 8);
  }
}

} // namespace
