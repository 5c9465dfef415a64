#include "runtime/vision/Picture.h"

#include <cstddef>

namespace moe {

Status checkPictureSize(int64_t width, int64_t height) {
  const auto size = [&] {
    return std::to_string(width) + "x" + std::to_string(height) + " pixels";
  };
  if (width < 1 || height < 1)
    return Error{Code::InvalidArgument,
                 "the picture has " + size() + ", it should have at least 1x1"};
  if (width > kMaxPictureSide || height > kMaxPictureSide || width * height > kMaxPicturePixels)
    return Error{Code::InvalidArgument, "the picture has " + size() + "; at most " +
                                            std::to_string(kMaxPictureSide) + " a side and " +
                                            std::to_string(kMaxPicturePixels / 1'000'000) +
                                            " million altogether are taken, so make it smaller"};
  return ok();
}

Status checkPicture(const PictureView &picture) {
  MOE_TRY(checkPictureSize(picture.width, picture.height));
  const size_t expected = size_t(picture.width) * size_t(picture.height) * 3;
  if (picture.rgb.size() != expected)
    return Error{Code::InvalidArgument,
                 "the picture has " + std::to_string(picture.rgb.size()) + " bytes, and " +
                     std::to_string(picture.width) + "x" + std::to_string(picture.height) +
                     " pixels of red, green and blue have " + std::to_string(expected)};
  return ok();
}

Picture orient(Picture picture, Orientation orientation) {
  if (orientation == Orientation::AsItIs)
    return picture;
  const ptrdiff_t width = picture.width, height = picture.height;
  // Where the upper left pixel of the result lies in the picture, and how far the next one is, to
  // the right and down.
  const ptrdiff_t left = 0, right = width - 1, top = 0, bottom = (height - 1) * width;
  ptrdiff_t first = 0, across = 1, down = width;
  switch (orientation) {
  case Orientation::AsItIs:
    break;
  case Orientation::MirrorLeftRight:
    first = top + right, across = -1, down = width;
    break;
  case Orientation::Rotate180:
    first = bottom + right, across = -1, down = -width;
    break;
  case Orientation::MirrorTopBottom:
    first = bottom + left, across = 1, down = -width;
    break;
  case Orientation::Transpose:
    first = top + left, across = width, down = 1;
    break;
  case Orientation::Rotate90:
    first = bottom + left, across = -width, down = 1;
    break;
  case Orientation::Transverse:
    first = bottom + right, across = -width, down = -1;
    break;
  case Orientation::Rotate270:
    first = top + right, across = width, down = -1;
    break;
  }
  const bool exchanges = orientation >= Orientation::Transpose;
  Picture turned{exchanges ? picture.height : picture.width,
                 exchanges ? picture.width : picture.height,
                 std::vector<uint8_t>(picture.rgb.size())};
  uint8_t *to = turned.rgb.data();
  for (ptrdiff_t y = 0; y < turned.height; ++y)
    for (ptrdiff_t x = 0; x < turned.width; ++x, to += 3) {
      const uint8_t *from = picture.rgb.data() + (first + y * down + x * across) * 3;
      to[0] = from[0], to[1] = from[1], to[2] = from[2];
    }
  return turned;
}

} // namespace moe
