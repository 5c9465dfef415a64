// The decoders, in this process: all kinds of pictures against what Pillow sees, and damaged ones.
#include "tools/moe-media/Decode.h"

#include "runtime/vision/TestPictures.h"
#include "tools/moe-media/Formats.h"

#include <gtest/gtest.h>

#include <fstream>
#include <random>

using namespace moe;

namespace {

const std::string kFolder = MOE_SOURCE_DIR "/test/vision/";

std::span<const std::byte> bytes(const std::string &text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string readFile(const std::string &name) {
  std::ifstream file(kFolder + "files/" + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<TestJson> goldens() { return TestJson::read(kFolder + "files.json")["files"].array; }

bool isRead(const std::string &name) {
  return name.ends_with(".gif") ? kReadsGif : name.ends_with(".avif") ? kReadsAvif : true;
}

void refuses(const std::string &file, const std::string &why) {
  const Result<Picture> picture = decode(bytes(file));
  ASSERT_FALSE(bool(picture)) << why;
  EXPECT_EQ(picture.error().code, Code::InvalidArgument);
  EXPECT_NE(picture.error().message.find(why), std::string::npos) << picture.error().message;
}

TEST(Decode, SeesWhatPillowSees) {
  ASSERT_GT(goldens().size(), 40u);
  for (const TestJson &golden : goldens()) {
    const std::string name = golden["file"].string;
    if (!isRead(name))
      continue;
    SCOPED_TRACE(name);
    const Result<Picture> picture = decode(bytes(readFile(name)));
    ASSERT_TRUE(bool(picture)) << picture.error().message;
    EXPECT_EQ(picture->height, int32_t(golden["height"].number));
    EXPECT_EQ(picture->width, int32_t(golden["width"].number));
    EXPECT_EQ(checksum(picture->rgb), golden["pixels"].string);
  }
}

// A file without its end is refused, never shown in part: a grey half would be a picture too.
TEST(Decode, RefusesFilesThatAreCut) {
  for (const TestJson &golden : goldens()) {
    const std::string name = golden["file"].string, file = readFile(name);
    if (!isRead(name) || name == "animation.gif") // whose first picture ends before the half
      continue;
    for (size_t size = 0; size < file.size() * 3 / 4; size += 1 + size / 8)
      EXPECT_FALSE(bool(decode(bytes(file.substr(0, size))))) << name << " of " << size << " bytes";
  }
}

// Whether they are pictures or not, nothing is read or written beside them.
TEST(Decode, SurvivesDamage) {
  std::mt19937 random(1);
  const std::vector<TestJson> all = goldens();
  int pictures = 0;
  for (int i = 0; i < 4000; ++i) {
    const std::string name = all[random() % all.size()]["file"].string;
    std::string file = readFile(name);
    for (uint32_t count = 1 + random() % 6; count > 0; --count)
      file[random() % file.size()] = char(random());
    if (random() % 4 == 0)
      file.resize(random() % file.size());
    const Result<Picture> picture = decode(bytes(file));
    pictures += bool(picture);
    if (picture)
      ASSERT_TRUE(bool(checkPicture(*picture)));
    else
      ASSERT_FALSE(picture.error().message.empty());
  }
  EXPECT_GT(pictures, 100);
}

TEST(Decode, RefusesOthersByName) {
  using namespace std::literals;
  const std::pair<std::string, const char *> files[] = {
      {"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG file"},
      {"<?xml version='1.0'?>\n<!-- a --><svg/>", "an SVG file"},
      {"<html>", "a file of XML or HTML"},
      {"%PDF-1.7\n", "a PDF file"},
      {"II*\0\x08\0\0\0"s, "a TIFF file"},
      {"MM\0*\0\0\0\x08"s, "a TIFF file"},
      {"\0\0\0\x18"
       "ftypheic\0\0\0\0"s,
       "a HEIF file"},
      {"\0\0\0\x18"
       "ftypmif1\0\0\0\0"s,
       "a HEIF file"},
      {"\0\0\0\x18"
       "ftypisom\0\0\0\0"s,
       "a film"},
      {"\x1a\x45\xdf\xa3 webm", "a film"},
      {"BM123456", "a BMP file"},
      {"\xff\x0a", "a JPEG XL file"},
      {"8BPS", "a Photoshop file"},
      {"P5 1 1 255\nx", "a Netpbm file of another kind"},
      {"", "no picture of a known type"},
      {"hello", "no picture of a known type"},
      {std::string(100, '\0'), "no picture of a known type"},
  };
  for (const auto &[file, name] : files)
    refuses(file, "the file is "s + name);
  if (!kReadsAvif)
    refuses("\0\0\0\x18"
            "ftypavif\0\0\0\0"s,
            "an AVIF file");
}

void put(std::string &file, size_t at, uint32_t number, size_t size, bool big) {
  for (size_t i = 0; i < size; ++i)
    file[at + i] = char(number >> 8 * (big ? size - 1 - i : i));
}

uint32_t crcOf(const std::string &text) {
  return uint32_t(std::stoul(
      checksum({reinterpret_cast<const uint8_t *>(text.data()), text.size()}), nullptr, 16));
}

// The size is looked at before memory is taken for it.
TEST(Decode, RefusesSizesBeyondTheLimits) {
  const std::pair<uint32_t, uint32_t> sizes[] = {
      {0, 5}, {16385, 1}, {1, 16385}, {10000, 10000}, {0x7fffffff, 0x7fffffff}};
  for (const auto &[width, height] : sizes) {
    std::string png = readFile("rgb.png");
    put(png, 16, width, 4, true);
    put(png, 20, height, 4, true);
    put(png, 29, crcOf(png.substr(12, 17)), 4, true);
    EXPECT_FALSE(bool(decode(bytes(png)))) << width << "x" << height;
  }
  std::string jpeg = readFile("420.jpg");
  size_t at = 2;
  while (uint8_t(jpeg[at + 1]) != 0xc0) // from marker to marker, to the frame's
    at += 2 + size_t(uint8_t(jpeg[at + 2])) * 256 + uint8_t(jpeg[at + 3]);
  put(jpeg, at + 5, 60000, 2, true);
  put(jpeg, at + 7, 60000, 2, true);
  refuses(jpeg, "has 60000x60000 pixels");
  put(jpeg, at + 5, 0, 2, true);
  refuses(jpeg, "the JPEG file is damaged");
  if (kReadsGif) {
    std::string gif = readFile("plain.gif");
    put(gif, 6, 65535, 2, false);
    put(gif, 8, 65535, 2, false);
    refuses(gif, "has 65535x65535 pixels");
    gif = readFile("plain.gif"); // whose picture is larger than its canvas
    put(gif, 6, 5, 2, false);
    refuses(gif, "lies beside its canvas");
  }
}

// Few bytes that become many, in an ancillary chunk that nobody needs.
TEST(Decode, RefusesAPngWithAThousandChunks) {
  std::string png = readFile("rgb.png");
  std::string chunk("\0\0\0\5zzZzabcde\0\0\0\0", 17);
  chunk = std::string("\0\0\0\6tEXtk\0abcd", 14);
  std::string crc(4, 0);
  put(crc, 0, crcOf(chunk.substr(4)), 4, true);
  std::string many = png.substr(0, 33);
  for (int i = 0; i < 100000; ++i)
    many += chunk + crc;
  many += png.substr(33);
  const Result<Picture> picture = decode(bytes(many)); // text is dropped, and the picture is one
  if (picture)
    EXPECT_EQ(*picture, *decode(bytes(png)));
}

// A progressive picture with more scans than anybody makes costs a pass over it for each.
TEST(Decode, RefusesAJpegWithManyScans) {
  const std::string file = readFile("progressive.jpg");
  size_t scan = file.find("\xff\xda");
  const size_t next = file.find("\xff\xc4", scan); // tables of the second scan
  const size_t end = file.find("\xff\xda", next);
  ASSERT_NE(end, file.npos);
  size_t after = end + 2;
  while (!(uint8_t(file[after]) == 0xff && file[after + 1] != 0))
    ++after;
  std::string many = file.substr(0, after);
  for (int i = 0; i < 200; ++i)
    many += file.substr(next, after - next);
  many += "\xff\xd9";
  refuses(many, "more than 100 scans");
}

} // namespace
