// Decodes picture files in a process of their own, `moe-media`: decoders read the files of
// strangers, and what goes wrong in one of them must not go wrong here.
#ifndef MOE_RUNTIME_VISION_MEDIAPROCESS_H
#define MOE_RUNTIME_VISION_MEDIAPROCESS_H

#include "runtime/vision/Picture.h"

#include <chrono>
#include <cstddef>

namespace moe {

struct MediaOptions {
  // The path of moe-media. Empty: the one that the environment names as MOE_MEDIA, or else the one
  // beside the running program.
  std::string program;
  std::chrono::milliseconds deadline{20'000}; // for one file
};

// Where moe-media is by these options. Error: Unavailable, with what to do.
Result<std::string> findMedia(const MediaOptions &options);

// The picture of a file: PPM is read here, all else by moe-media, upright, without alpha, and of
// several pictures the first. Threads as they like. Error: InvalidArgument for a file that is no
// picture or beyond the limits, Unavailable without moe-media, IoError where it failed; one
// sentence.
Result<Picture> readPicture(std::span<const std::byte> file, const MediaOptions &options = {});

} // namespace moe

#endif
