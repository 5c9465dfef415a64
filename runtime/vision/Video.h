// Frames of a film, by `ffmpeg` in the sandbox of `moe-media`. The model knows no film: frames are
// pictures, with their times between them; cut into one tile (cutTiles), a frame is 147 tokens.
#ifndef MOE_RUNTIME_VISION_VIDEO_H
#define MOE_RUNTIME_VISION_VIDEO_H

#include "runtime/vision/MediaProcess.h"

namespace moe {

inline constexpr int64_t kMaxVideoFileBytes = 256 << 20;
inline constexpr int32_t kMaxVideoFrames = 256;

struct VideoOptions {
  double framesPerSecond = 1; // more than 0, at most 60
  int32_t maxFrames = 32;     // of a longer film, evenly over the whole; at most kMaxVideoFrames
  std::string folder;         // of ffmpeg and ffprobe; empty: where PATH finds them
  MediaOptions media{{}, std::chrono::milliseconds(60'000)}; // the deadline is for all frames
};

struct VideoFrame {
  double seconds = 0; // since the beginning
  Picture picture;
};

// One frame or more, in order. Error: as readPicture, Unavailable without ffmpeg.
Result<std::vector<VideoFrame>> readVideo(std::span<const std::byte> file,
                                          const VideoOptions &options = {});

// The text before a frame, which says when it is: "[01:05] ".
std::string timeLabel(double seconds);

} // namespace moe

#endif
