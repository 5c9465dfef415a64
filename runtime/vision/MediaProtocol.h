// What moe-media answers on its standard output: one picture, or one sentence that says why there
// is none. Little-endian, a header of 16 bytes and then the bytes that it announces:
//
//   "MOEP"  u32 1  u32 width  u32 height   width·height·3 bytes of RGB, the top row first
//   "MOEP"  u32 2  u32 bytes  u32 0        a sentence without a full stop
//
// Whoever reads it trusts none of it: moe-media decodes files of strangers.
#ifndef MOE_RUNTIME_VISION_MEDIAPROTOCOL_H
#define MOE_RUNTIME_VISION_MEDIAPROTOCOL_H

#include "runtime/vision/Picture.h"

#include <array>
#include <cstddef>

namespace moe {

inline constexpr int64_t kMaxPictureFileBytes = 20 << 20; // of a file that is to be decoded
inline constexpr uint32_t kMaxRefusalBytes = 512;

using MediaHeader = std::array<std::byte, 16>;
MediaHeader pictureHeader(int32_t width, int32_t height);
MediaHeader refusalHeader(uint32_t bytes);

// Reads an answer that arrives in parts.
class MediaReader {
public:
  // The next bytes. Error: IoError, if this is no answer; the picture's limits are checked before
  // memory is taken for it.
  Status push(std::span<const std::byte> bytes);

  // All of it has arrived; what comes after it is an error of push.
  bool isComplete() const;

  // Once, at the end. Error: InvalidArgument with the sentence of the refusal, of which only
  // printable ASCII is kept; IoError if the answer is cut short.
  Result<Picture> take();

private:
  Status readHeader();

  MediaHeader header;
  size_t headerBytes = 0; // that have arrived,
  size_t bodyBytes = 0;   // and these
  bool isRefusal = false;
  std::string refusal;
  Picture picture;
};

} // namespace moe

#endif
