#include "tools/moe-media/Exif.h"

#include <cstring>

namespace moe {
namespace {

// Numbers of a TIFF file, in its order of bytes; 0 beyond its end.
class Tiff {
public:
  Tiff(FileBytes bytes, bool little) : bytes(bytes), little(little) {}
  uint32_t number(size_t at, size_t size) const {
    uint32_t value = 0;
    if (at > bytes.size() || size > bytes.size() - at)
      return 0;
    for (size_t i = 0; i < size; ++i)
      value |= uint32_t(bytes[at + i]) << 8 * (little ? i : size - 1 - i);
    return value;
  }

private:
  FileBytes bytes;
  bool little;
};

} // namespace

Orientation exifOrientation(FileBytes exif) {
  constexpr char kStart[] = {'E', 'x', 'i', 'f', 0, 0};
  if (exif.size() >= sizeof kStart && std::memcmp(exif.data(), kStart, sizeof kStart) == 0)
    exif = exif.subspan(sizeof kStart);
  if (exif.size() < 8)
    return Orientation::AsItIs;
  const bool little = char(exif[0]) == 'I';
  const Tiff tiff(exif, little);
  if (exif[0] != exif[1] || (!little && char(exif[0]) != 'M') || tiff.number(2, 2) != 42)
    return Orientation::AsItIs;
  // The first directory: a count, then entries of tag, type, count and value, 12 bytes each.
  const size_t directory = tiff.number(4, 4);
  const uint32_t entries = tiff.number(directory, 2);
  for (uint32_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + 12 * size_t(i);
    constexpr uint32_t kTag = 0x112, kShort = 3;
    if (tiff.number(entry, 2) != kTag)
      continue;
    const uint32_t value = tiff.number(entry + 8, 2);
    if (tiff.number(entry + 2, 2) == kShort && value >= 1 && value <= 8)
      return Orientation(value);
    return Orientation::AsItIs;
  }
  return Orientation::AsItIs;
}

} // namespace moe
