// For tests: pictures by a formula, checksums, and what test/vision/golden.json says of them.
#ifndef MOE_RUNTIME_VISION_TESTPICTURES_H
#define MOE_RUNTIME_VISION_TESTPICTURES_H

#include "runtime/text/TestJson.h"
#include "runtime/vision/Tiles.h"

#include <cstdio>

namespace moe {

// The picture of that size that golden.json is about.
inline Picture formulaPicture(int32_t height, int32_t width) {
  Picture picture{width, height, std::vector<uint8_t>(size_t(height) * size_t(width) * 3)};
  uint8_t *to = picture.rgb.data();
  for (uint32_t y = 0; y < uint32_t(height); ++y)
    for (uint32_t x = 0; x < uint32_t(width); ++x)
      for (uint32_t c = 0; c < 3; ++c)
        *to++ = uint8_t((3 * x * x + 5 * y * y + 7 * x * y + 31 * c * x + 17 * c * y) >> 7);
  return picture;
}

// CRC-32 as zlib has it, of bytes that come in parts.
class Checksum {
public:
  Checksum() {
    for (uint32_t i = 0; i < 256; ++i) {
      table[i] = i;
      for (int bit = 0; bit < 8; ++bit)
        table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xEDB88320u : 0);
    }
  }
  Checksum &add(std::span<const uint8_t> bytes) {
    for (const uint8_t byte : bytes)
      state = state >> 8 ^ table[(state ^ byte) & 255];
    return *this;
  }
  Checksum &add(int32_t number) { // little-endian
    for (int shift = 0; shift < 32; shift += 8) {
      const uint8_t byte = uint8_t(uint32_t(number) >> shift);
      add(std::span(&byte, 1));
    }
    return *this;
  }
  std::string text() const {
    char digits[9];
    std::snprintf(digits, sizeof digits, "%08x", ~state);
    return digits;
  }

private:
  uint32_t table[256], state = ~0u;
};

inline std::string checksum(std::span<const uint8_t> bytes) { return Checksum().add(bytes).text(); }

// The checksum of each tile.
inline std::vector<std::string> checksums(const Tiles &tiles) {
  std::vector<std::string> sums;
  const size_t bytes = tiles.pixels.size() / size_t(tiles.count());
  for (size_t at = 0; at < tiles.pixels.size(); at += bytes)
    sums.push_back(checksum(std::span(tiles.pixels).subspan(at, bytes)));
  return sums;
}

// Sizes as make-goldens.py draws them.
class RandomSizes {
public:
  explicit RandomSizes(uint64_t seed) : state(seed) {}
  int32_t side(uint32_t bits) {
    const uint32_t value = next();
    return int32_t(1 + value % (2u << next() % bits));
  }

private:
  uint32_t next() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return uint32_t(state >> 33);
  }
  uint64_t state;
};

// Pictures that golden.json describes.
struct GoldenPicture {
  PictureSize size, resized;
  Grid grid;
  int32_t maxTiles = 16;
  std::string picture, layout; // checksum; runs of tokens
  std::vector<std::string> tiles;
};

class VisionGoldens {
public:
  static const VisionGoldens &get() {
    static const VisionGoldens goldens;
    return goldens;
  }
  std::vector<GoldenPicture> pictures; // at most 16 tiles
  std::vector<GoldenPicture> fewer;    // other numbers
  std::vector<std::string> grids;      // of each hundred sizes: size, grid, resized
  std::vector<std::string> random;     // of each hundred pictures: their tiles

  const GoldenPicture &of(int32_t height, int32_t width) const {
    for (const GoldenPicture &picture : pictures)
      if (picture.size == PictureSize{height, width})
        return picture;
    throw std::out_of_range("no such picture in golden.json");
  }

private:
  VisionGoldens() {
    const TestJson json = TestJson::read(MOE_SOURCE_DIR "/test/vision/golden.json");
    const auto pair = [](const TestJson &list) {
      return std::pair(int32_t(list.array.at(0).number), int32_t(list.array.at(1).number));
    };
    const auto strings = [](const TestJson &list) {
      std::vector<std::string> all;
      for (const TestJson &item : list.array)
        all.push_back(item.string);
      return all;
    };
    const auto read = [&](const std::string &key, std::vector<GoldenPicture> &to) {
      for (const TestJson &entry : json[key].array) {
        GoldenPicture picture;
        std::tie(picture.size.height, picture.size.width) = pair(entry["size"]);
        std::tie(picture.grid.rows, picture.grid.columns) = pair(entry["grid"]);
        std::tie(picture.resized.height, picture.resized.width) = pair(entry["resized"]);
        picture.tiles = strings(entry["tiles"]);
        if (entry.has("most"))
          picture.maxTiles = int32_t(entry["most"].number);
        if (entry.has("layout")) {
          picture.layout = entry["layout"].string;
          picture.picture = entry["picture"].string;
        }
        to.push_back(std::move(picture));
      }
    };
    read("pictures", pictures);
    read("fewer", fewer);
    grids = strings(json["grids"]);
    random = strings(json["random"]);
  }
};

} // namespace moe

#endif
