// A file that appears under its name when it is complete, and else not at all.
#ifndef MOE_COMPILER_PLAN_OUTPUTFILE_H
#define MOE_COMPILER_PLAN_OUTPUTFILE_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/Support/Error.h"

#include <csignal>
#include <cstdint>
#include <optional>
#include <string>

namespace moe {

// What may still be written to files of a folder; none where its file system does not say, as some
// that are made up or far away.
std::optional<uint64_t> freeBytes(const std::string &folder);

// Written as a file without a name in the same folder, so that nothing is left even if the process
// is killed; commit names it "<path>.tmp-<pid>" and renames that. On file systems that have no such
// files it has that name from the start, and is removed with this object unless commit succeeded.
// As long as one exists, SIGXFSZ is ignored, so that a limit on the size of files is an error as
// any other.
class OutputFile {
public:
  using FreeBytes = std::optional<uint64_t> (*)(const std::string &folder);

  // Fails where `path` could not become the file: a folder, no folder, no right, too little room
  // for `size` bytes beside a file that is there already.
  static llvm::Expected<OutputFile> create(llvm::StringRef path, uint64_t size,
                                           FreeBytes freeBytes = moe::freeBytes);
  OutputFile(OutputFile &&other) noexcept;
  ~OutputFile();

  // From several threads at once. What is never written between is zero.
  llvm::Error write(uint64_t offset, llvm::ArrayRef<char> data);
  // Waits until all is on the disk, then renames; the file is closed whatever happens.
  llvm::Error commit();

private:
  OutputFile() = default;
  llvm::Error failure(const char *what) const;

  std::string path, temporary;
  bool named = false; // `temporary` is a file
  int fd = -1;
  struct sigaction oldAction = {};
};

} // namespace moe

#endif
