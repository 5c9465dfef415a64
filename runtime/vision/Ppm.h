// Reads pictures that need no decoder: PPM files, and bytes that are pixels already.
#ifndef MOE_RUNTIME_VISION_PPM_H
#define MOE_RUNTIME_VISION_PPM_H

#include "runtime/vision/Picture.h"

#include <cstddef>
#include <optional>

namespace moe {

// Whether a file begins as a binary PPM file (P6) does.
bool isPpm(std::span<const std::byte> file);

// A binary PPM file (P6) of values up to 255, as netpbm defines it: one picture, with comments in
// the header. Error: InvalidArgument, which says what is wrong with it.
Result<Picture> readPpm(std::span<const std::byte> file);

// Where pictures follow each other, as ffmpeg writes the frames of a film: the first one, and how
// many bytes it took; nothing, if more bytes are needed to know.
struct PpmFrame {
  Picture picture;
  size_t bytes = 0;
};
Result<std::optional<PpmFrame>> readPpmFrame(std::span<const std::byte> bytes);

} // namespace moe

#endif
