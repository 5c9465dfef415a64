// ffmpeg writes frames as PPM, which say their own size: a film may be turned, and may change size.
#include "runtime/vision/Video.h"

#include "runtime/vision/ChildProcess.h"
#include "runtime/vision/Ppm.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <unistd.h>

namespace moe {
namespace {

// Containers that hold all of a film themselves. Lists of other files are none.
constexpr const char *kContainers =
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif,apng";

// What the sandbox runs: the file is its standard input, under a name that ffmpeg can seek in.
std::vector<std::string> command(const std::string &program, std::vector<std::string> arguments) {
  std::vector<std::string> all = {"run",
                                  program,
                                  "-v",
                                  "error",
                                  "-threads",
                                  "2",
                                  "-protocol_whitelist",
                                  "file",
                                  "-format_whitelist",
                                  kContainers};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return all;
}

Result<std::string> find(const std::string &name, const std::string &folder) {
  const char *path = std::getenv("PATH");
  std::string folders = !folder.empty() ? folder : path ? path : "/usr/local/bin:/usr/bin:/bin";
  for (size_t at = 0; at <= folders.size();) {
    const size_t end = std::min(folders.find(':', at), folders.size());
    const std::string candidate = folders.substr(at, end - at) + "/" + name;
    if (candidate[0] == '/' && access(candidate.c_str(), X_OK) == 0)
      return candidate;
    at = end + 1;
  }
  return Error{Code::Unavailable, "a film needs " + name + ", and there is none in " + folders +
                                      " (Debian: apt-get install ffmpeg); single frames can be "
                                      "given as pictures"};
}

// How long the film is, in seconds; 0 if its file does not say.
Result<double> duration(const std::string &sandbox, std::span<const std::byte> file,
                        const VideoOptions &options) {
  MOE_ASSIGN(program, find("ffprobe", options.folder));
  std::string text;
  MOE_ASSIGN(end, runChild(sandbox,
                           command(program, {"-show_entries", "format=duration", "-of",
                                             "csv=print_section=0", "-i", "/dev/stdin"}),
                           file, options.media.deadline, [&](std::span<const std::byte> part) {
                             text.append(reinterpret_cast<const char *>(part.data()), part.size());
                             return text.size() < 1000;
                           }));
  const double seconds = std::strtod(text.c_str(), nullptr);
  if (end.how != ChildEnd::How::Exited)
    return Error{Code::InvalidArgument, "ffprobe " + describe(end) + " on the film"};
  return std::isfinite(seconds) && seconds > 0 ? seconds : 0;
}

} // namespace

Result<std::vector<VideoFrame>> readVideo(std::span<const std::byte> file,
                                          const VideoOptions &options) {
  double rate = options.framesPerSecond;
  if (!(rate > 0 && rate <= 60))
    return Error{Code::InvalidArgument, "frames per second are " + std::to_string(rate) +
                                            ", they should be more than 0 and at most 60"};
  if (options.maxFrames < 1 || options.maxFrames > kMaxVideoFrames)
    return Error{Code::InvalidArgument, "at most " + std::to_string(options.maxFrames) +
                                            " frames are asked for, it should be 1 to " +
                                            std::to_string(kMaxVideoFrames)};
  if (file.empty() || int64_t(file.size()) > kMaxVideoFileBytes)
    return Error{Code::InvalidArgument, "the film's file has " + std::to_string(file.size()) +
                                            " bytes; 1 to " + std::to_string(kMaxVideoFileBytes) +
                                            " are read"};
  MOE_ASSIGN(program, find("ffmpeg", options.folder));
  MOE_ASSIGN(sandbox, findMedia(options.media));
  MOE_ASSIGN(seconds, duration(sandbox, file, options));
  if (seconds * rate > options.maxFrames)
    rate = options.maxFrames / seconds;

  char filter[64];
  std::snprintf(filter, sizeof filter, "fps=%.9g:round=up", rate); // what is seen at that time
  std::vector<VideoFrame> frames;
  std::vector<std::byte> pending;
  int64_t pixels = 0;
  Status status = ok();
  const auto take = [&](std::span<const std::byte> part) {
    pending.insert(pending.end(), part.begin(), part.end());
    while (true) {
      Result<std::optional<PpmFrame>> frame = readPpmFrame(pending);
      if (!frame)
        status = frame.error();
      if (!frame || !*frame)
        return bool(frame);
      Picture &picture = (*frame)->picture;
      pixels += int64_t(picture.width) * picture.height;
      if (int32_t(frames.size()) == options.maxFrames || pixels > 8 * kMaxPicturePixels) {
        status = Error{Code::InvalidArgument, "the film's frames have more than " +
                                                  std::to_string(8 * kMaxPicturePixels) +
                                                  " pixels altogether; ask for fewer frames"};
        return false;
      }
      frames.push_back({double(frames.size()) / rate, std::move(picture)});
      pending.erase(pending.begin(), pending.begin() + ptrdiff_t((*frame)->bytes));
    }
  };
  MOE_ASSIGN(end,
             runChild(sandbox,
                      command(program, {"-nostdin", "-i", "/dev/stdin", "-an", "-sn", "-dn", "-vf",
                                        filter, "-frames:v", std::to_string(options.maxFrames),
                                        "-f", "image2pipe", "-c:v", "ppm", "pipe:1"}),
                      file, options.media.deadline, take));
  MOE_TRY(status);
  const std::string said = end.said.substr(0, end.said.find('\n'));
  if (end.how != ChildEnd::How::Exited)
    return Error{Code::InvalidArgument, "ffmpeg " + describe(end) +
                                            " on the film; it is damaged, "
                                            "made to harm, or too large"};
  if (frames.empty())
    return Error{Code::InvalidArgument,
                 "the file is no film, or has no frames" + (said.empty() ? "" : ": " + said)};
  return frames;
}

std::string timeLabel(double seconds) {
  const int64_t whole = int64_t(std::max(seconds, 0.0));
  char text[32];
  std::snprintf(text, sizeof text, "[%02lld:%02lld] ", (long long)(whole / 60),
                (long long)(whole % 60));
  return text;
}

} // namespace moe
