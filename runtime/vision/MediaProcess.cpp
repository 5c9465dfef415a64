#include "runtime/vision/MediaProcess.h"

#include "runtime/vision/ChildProcess.h"
#include "runtime/vision/MediaProtocol.h"
#include "runtime/vision/Ppm.h"

#include <cstdlib>
#include <unistd.h>

namespace moe {
namespace {

std::string besideThisProgram() {
  char path[4096];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof path);
  const std::string program(path, size_t(std::max<ssize_t>(size, 0)));
  return program.substr(0, program.rfind('/') + 1) + "moe-media";
}

} // namespace

Result<std::string> findMedia(const MediaOptions &options) {
  const char *named = std::getenv("MOE_MEDIA");
  const std::string path = !options.program.empty() ? options.program
                           : named && *named        ? std::string(named)
                                                    : besideThisProgram();
  if (access(path.c_str(), X_OK) == 0)
    return path;
  return Error{Code::Unavailable,
               "this needs moe-media, the program that decodes files, and there is none at " +
                   path +
                   "; build it with -DMOE_BUILD_MEDIA=ON, name it in MOE_MEDIA, or give a picture "
                   "as PPM (P6)"};
}

Result<Picture> readPicture(std::span<const std::byte> file, const MediaOptions &options) {
  if (isPpm(file))
    return readPpm(file);
  if (file.empty())
    return Error{Code::InvalidArgument, "the picture's file is empty"};
  if (int64_t(file.size()) > kMaxPictureFileBytes)
    return Error{Code::InvalidArgument, "the picture's file has " + std::to_string(file.size()) +
                                            " bytes, at most " +
                                            std::to_string(kMaxPictureFileBytes) + " are read"};
  MOE_ASSIGN(program, findMedia(options));
  MediaReader reader;
  Status status = ok();
  MOE_ASSIGN(end,
             runChild(program, {}, file, options.deadline, [&](std::span<const std::byte> part) {
               status = reader.push(part);
               return bool(status);
             }));
  MOE_TRY(status);
  if (reader.isComplete())
    return reader.take();
  return Error{end.how == ChildEnd::How::TooLate ? Code::InvalidArgument : Code::IoError,
               "moe-media " + describe(end) +
                   " before the picture was whole; the file is damaged, "
                   "or made to harm"};
}

} // namespace moe
