#include "runtime/vision/MediaProtocol.h"

#include <gtest/gtest.h>

#include <random>

using namespace moe;

namespace {

std::string text(const MediaHeader &header) {
  return {reinterpret_cast<const char *>(header.data()), header.size()};
}

std::span<const std::byte> bytes(const std::string &text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// The whole answer in parts of `part` bytes.
Result<Picture> read(const std::string &answer, size_t part = 1 << 20) {
  MediaReader reader;
  for (size_t at = 0; at < answer.size(); at += part)
    MOE_TRY(reader.push(bytes(answer.substr(at, part))));
  return reader.take();
}

const std::string kPicture = text(pictureHeader(2, 1)) + "abcdef";
const std::string kRefusal = text(refusalHeader(9)) + "no\npicture";

TEST(MediaProtocol, BringsAPicture) {
  for (size_t part = 1; part <= kPicture.size(); ++part) {
    const Result<Picture> picture = read(kPicture, part);
    ASSERT_TRUE(bool(picture)) << picture.error().message;
    EXPECT_EQ(*picture, (Picture{2, 1, {'a', 'b', 'c', 'd', 'e', 'f'}}));
  }
}

TEST(MediaProtocol, BringsARefusal) {
  const std::string refusal = text(refusalHeader(10)) + "no\npict\xffre";
  for (size_t part = 1; part <= refusal.size(); ++part) {
    const Result<Picture> picture = read(refusal, part);
    ASSERT_FALSE(bool(picture));
    EXPECT_EQ(picture.error().code, Code::InvalidArgument);
    EXPECT_EQ(picture.error().message, "no?pict?re");
  }
}

TEST(MediaProtocol, TrustsNothing) {
  const auto refuses = [](const std::string &answer, const std::string &why) {
    const Result<Picture> picture = read(answer);
    ASSERT_FALSE(bool(picture)) << why;
    EXPECT_NE(picture.error().message.find(why), std::string::npos) << picture.error().message;
  };
  refuses("", "is cut short");
  for (size_t size = 0; size < kPicture.size(); ++size)
    refuses(kPicture.substr(0, size), "is cut short");
  refuses(kPicture + "g", "wrote more than the picture");
  refuses(kRefusal, "wrote more than the picture");
  refuses("hello, I am another program", "something else than a picture");
  std::string other = kPicture;
  other[4] = 3;
  refuses(other, "something else than a picture");
  refuses(text(refusalHeader(kMaxRefusalBytes + 1)), "more than there may be");
  refuses(text(refusalHeader(0xffffffff)), "more than there may be");
  refuses(text(pictureHeader(0, 5)), "has 0x5 pixels");
  refuses(text(pictureHeader(-1, -1)), "has 4294967295x4294967295 pixels");
  refuses(text(pictureHeader(16384, 16384)), "at most 16384 a side");
}

TEST(MediaProtocol, SurvivesDamage) {
  std::mt19937 random(1);
  for (int i = 0; i < 50000; ++i) {
    std::string answer = random() % 2 ? kPicture : kRefusal;
    for (uint32_t count = random() % 4; count > 0; --count)
      answer[random() % answer.size()] = char(random() % 4 ? random() % 4 : random());
    answer.resize(random() % 3 ? answer.size() : random() % answer.size());
    const Result<Picture> whole = read(answer), parts = read(answer, 1 + random() % 7);
    ASSERT_EQ(bool(whole), bool(parts));
    if (whole)
      EXPECT_TRUE(bool(checkPicture(*whole)));
  }
}

} // namespace
