// moe-media: decodes the picture file on its standard input, and answers on its standard output
// (runtime/vision/MediaProtocol.h). `moe-media run PROGRAM ..` becomes another program in a
// sandbox.
#include "runtime/vision/MediaProtocol.h"
#include "tools/moe-media/Decode.h"
#include "tools/moe-media/Sandbox.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <string_view>
#include <unistd.h>

using namespace moe;

namespace {

Result<std::vector<std::byte>> readInput() {
  std::vector<std::byte> file;
  while (true) {
    constexpr size_t kPart = 1 << 20;
    const size_t before = file.size();
    file.resize(before + kPart);
    const ssize_t count = read(STDIN_FILENO, file.data() + before, kPart);
    if (count < 0 && errno != EINTR)
      return Error{Code::IoError, std::string("the file cannot be read: ") + std::strerror(errno)};
    file.resize(before + size_t(std::max<ssize_t>(count, 0)));
    if (int64_t(file.size()) > kMaxPictureFileBytes)
      return Error{Code::InvalidArgument,
                   "the file has more than " + std::to_string(kMaxPictureFileBytes) + " bytes"};
    if (count == 0)
      return file;
  }
}

bool writeAll(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (count < 0 && errno != EINTR)
      return false;
    bytes = bytes.subspan(size_t(std::max<ssize_t>(count, 0)));
  }
  return true;
}

int answer(const Result<Picture> &picture) {
  if (picture)
    return !(writeAll(pictureHeader(picture->width, picture->height)) &&
             writeAll(std::as_bytes(std::span(picture->rgb))));
  const std::string message = picture.error().message.substr(0, kMaxRefusalBytes);
  writeAll(refusalHeader(uint32_t(message.size())));
  writeAll(std::as_bytes(std::span(message)));
  return 1;
}

Result<Picture> decodeInput() {
  MOE_TRY(enterDecoderSandbox());
  try {
    MOE_ASSIGN(file, readInput());
    return decode(file);
  } catch (const std::bad_alloc &) {
    return Error{Code::ResourceExhausted, "the picture needs more memory than decoders get"};
  }
}

int runProgram(char **arguments) {
  Status status = enterProgramSandbox(arguments[0]);
  if (status) {
    char *none[] = {nullptr};
    execve(arguments[0], arguments, none);
    status = Error{Code::Unavailable, std::string(arguments[0]) + ": " + std::strerror(errno)};
  }
  std::fprintf(stderr, "moe-media: %s\n", status.error().message.c_str());
  return 1;
}

} // namespace

int main(int count, char **arguments) {
  if (count >= 3 && std::string_view(arguments[1]) == "run")
    return runProgram(arguments + 2);
  if (count == 1 && !isatty(STDIN_FILENO) && !isatty(STDOUT_FILENO))
    return answer(decodeInput());
  std::fprintf(stderr,
               "moe-media decodes pictures for moe-run and moe-serve, which start it: a file on "
               "its standard input, an answer on its standard output\n");
  return 2;
}
