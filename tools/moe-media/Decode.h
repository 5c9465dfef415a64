// Turns the bytes of picture files into pixels. All of it runs in moe-media's sandbox.
#ifndef MOE_TOOLS_MOE_MEDIA_DECODE_H
#define MOE_TOOLS_MOE_MEDIA_DECODE_H

#include "runtime/vision/Picture.h"

#include <cstddef>

namespace moe {

using FileBytes = std::span<const std::byte>;

// What a file is, by its first bytes. Names are not asked.
enum class FileType { Jpeg, Png, Webp, Gif, Avif, Other };
FileType typeOf(FileBytes file);

// A picture, upright and without alpha; of several the first. Error: InvalidArgument, one sentence;
// a type that is not read is refused by its name.
Result<Picture> decode(FileBytes file);

// Each for the files of its type. The picture is as it lies in the file, and what Exif says of its
// orientation beside it.
struct Decoded {
  Picture picture;
  Orientation orientation = Orientation::AsItIs;
};
Result<Decoded> decodeJpeg(FileBytes file);
Result<Decoded> decodePng(FileBytes file);
Result<Decoded> decodeWebp(FileBytes file);
Result<Decoded> decodeGif(FileBytes file);
Result<Decoded> decodeAvif(FileBytes file);

// Where the library says no more than that a file is damaged.
Error damagedFile(const char *type, const std::string &why);

} // namespace moe

#endif
