// A picture in memory, and the limits that every one of them keeps, wherever it comes from.
#ifndef MOE_RUNTIME_VISION_PICTURE_H
#define MOE_RUNTIME_VISION_PICTURE_H

#include "runtime/Status.h"

#include <cstdint>
#include <span>
#include <vector>

namespace moe {

inline constexpr int32_t kMaxPictureSide = 16384;        // pixels
inline constexpr int64_t kMaxPicturePixels = 50'000'000; // 150 MB

// Pixels of someone else: `height` rows of `width` pixels of three bytes, red, green and blue,
// without gaps, the top row first.
struct PictureView {
  int32_t width = 0, height = 0;
  std::span<const uint8_t> rgb;
};

// Pixels of its own.
struct Picture {
  int32_t width = 0, height = 0;
  std::vector<uint8_t> rgb; // [height, width, 3]

  operator PictureView() const { return {width, height, rgb}; }
  bool operator==(const Picture &) const = default;
};

// Whether a picture may have this size. Error: InvalidArgument, with the limits. Readers ask before
// they allocate.
Status checkPictureSize(int64_t width, int64_t height);

// The same, and whether there are as many bytes as such a picture has.
Status checkPicture(const PictureView &picture);

// How a picture has to be turned to be seen upright: the values of Orientation in Exif 2.32,
// section 4.6.4. "Rotate" is clockwise.
enum class Orientation : uint8_t {
  AsItIs = 1,
  MirrorLeftRight = 2,
  Rotate180 = 3,
  MirrorTopBottom = 4,
  Transpose = 5,  // rows become columns
  Rotate90 = 6,   // a phone held upright
  Transverse = 7, // the other diagonal
  Rotate270 = 8,
};

// The picture, turned. Four of the orientations exchange width and height, so that this comes
// before all else. `picture` must have as many bytes as it should.
Picture orient(Picture picture, Orientation orientation);

} // namespace moe

#endif
