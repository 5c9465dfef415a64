// A file that appears under its name when it is complete, and else not at all.
#ifndef MOE_COMPILER_PLAN_OUTPUTFILE_H
#define MOE_COMPILER_PLAN_OUTPUTFILE_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/Support/Error.h"

#include <csignal>
#include <string>

namespace moe {

// Written as "<path>.tmp-<pid>" in the same folder, which is removed with this object unless commit
// succeeded. As long as one exists, SIGXFSZ is ignored, so that a limit on the size of files is an
// error as any other.
class OutputFile {
public:
  // Fails where `path` could not become the file: a folder, no folder, no right, too little room
  // for `size` bytes.
  static llvm::Expected<OutputFile> create(llvm::StringRef path, uint64_t size);
  OutputFile(OutputFile &&other);
  ~OutputFile();

  // From several threads at once. What is never written between is zero.
  llvm::Error write(uint64_t offset, llvm::ArrayRef<char> data);
  // Waits until all is on the disk, then renames; the file is closed whatever happens.
  llvm::Error commit();

private:
  OutputFile() = default;
  llvm::Error failure(const char *what) const;

  std::string path, temporary;
  int fd = -1;
  struct sigaction oldAction = {};
};

} // namespace moe

#endif
