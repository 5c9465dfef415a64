// No name, write, flush, name, rename.
#include "compiler/plan/OutputFile.h"
#include "llvm/Support/MathExtras.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

using namespace llvm;
using namespace moe;

static std::string folderOf(const std::string &path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, std::max<size_t>(slash, 1));
}

std::optional<uint64_t> moe::freeBytes(const std::string &folder) {
  struct statvfs disk;
  if (statvfs(folder.c_str(), &disk) || !disk.f_blocks)
    return std::nullopt;
  return uint64_t(disk.f_bavail) * disk.f_frsize;
}

Error OutputFile::failure(const char *what) const {
  const int code = errno;
  return createStringError(std::error_code(code, std::generic_category()),
                           Twine("cannot ") + what + " '" + path + "': " + std::strerror(code));
}

Expected<OutputFile> OutputFile::create(StringRef path, uint64_t size, FreeBytes freeBytes) {
  OutputFile file;
  file.path = path.str();
  // Renaming would replace a device by a file, and fail for a folder after all the work.
  struct stat info;
  if (!stat(file.path.c_str(), &info) && !S_ISREG(info.st_mode))
    return createStringError(std::make_error_code(std::errc::invalid_argument),
                             "cannot write '" + path + "': it is " +
                                 (S_ISDIR(info.st_mode) ? "a folder" : "no regular file"));
  const std::string folder = folderOf(file.path);
  // A file that is replaced gives nothing back before the new one is complete.
  if (std::optional<uint64_t> free = freeBytes(folder); free && *free < size)
    return createStringError(std::make_error_code(std::errc::no_space_on_device),
                             "cannot write '" + path + "': it takes " +
                                 Twine(divideCeil(size, uint64_t(1) << 20)) + " MB, and '" +
                                 folder + "' has " + Twine(*free >> 20) +
                                 " MB of free space; make room there, or give the output a path "
                                 "on another disk");

  file.temporary = file.path + ".tmp-" + std::to_string(getpid());
  unlink(file.temporary.c_str()); // of a process that had this id and was killed
  file.fd = open(folder.c_str(), O_WRONLY | O_TMPFILE | O_CLOEXEC, 0666);
  if (file.fd < 0) { // what errno says here depends on the file system
    file.fd = open(file.temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file.fd < 0)
      return file.failure("write");
    file.named = true;
  }
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGXFSZ, &ignore, &file.oldAction);
  return std::move(file);
}

OutputFile::OutputFile(OutputFile &&other) noexcept
    : path(std::move(other.path)), temporary(std::move(other.temporary)),
      named(std::exchange(other.named, false)), fd(std::exchange(other.fd, -1)),
      oldAction(other.oldAction) {}

OutputFile::~OutputFile() {
  if (fd >= 0) {
    close(fd);
    sigaction(SIGXFSZ, &oldAction, nullptr);
  }
  if (named)
    unlink(temporary.c_str());
}

Error OutputFile::write(uint64_t offset, ArrayRef<char> data) {
  while (!data.empty()) {
    const ssize_t n = pwrite(fd, data.data(), data.size(), offset);
    if (n > 0) {
      data = data.drop_front(n);
      offset += n;
    } else if (n == 0 || errno != EINTR) {
      return failure("write");
    }
  }
  return Error::success();
}

Error OutputFile::commit() {
  // Also close can fail, for one on network file systems.
  bool flushed = !fsync(fd);
  if (flushed && !named) {
    const std::string link = "/proc/self/fd/" + std::to_string(fd);
    flushed = !linkat(AT_FDCWD, link.c_str(), AT_FDCWD, temporary.c_str(), AT_SYMLINK_FOLLOW);
    named = flushed;
  }
  const int flushError = errno;
  const bool closed = !close(std::exchange(fd, -1));
  const int closeError = errno;
  sigaction(SIGXFSZ, &oldAction, nullptr);
  if (!flushed || !closed) {
    errno = flushed ? closeError : flushError;
    return failure("write");
  }
  if (rename(temporary.c_str(), path.c_str()))
    return failure("write");
  named = false;
  // The new name must survive a crash too; a folder that cannot be flushed is no reason to fail.
  const int folder = open(folderOf(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    fsync(folder);
    close(folder);
  }
  return Error::success();
}
