// The files that a compilation reads, so that what it writes replaces none of them.
#ifndef MOE_COMPILER_INPUTFILES_H
#define MOE_COMPILER_INPUTFILES_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/FileSystem/UniqueID.h"

#include <map>
#include <string>

namespace moe {

class InputFiles {
public:
  // One file. A path that leads to none is no input.
  void addFile(llvm::StringRef path);
  // The weights, configurations and tokenizers right inside the folder of a checkpoint or adapter,
  // by the ends of their names and whether or not this compilation reads them: a tokenizer.json
  // must outlive --no-tokenizer too.
  void addFolder(llvm::StringRef path);

  // An error that names both where `output` leads to an input, be it by another spelling of the
  // path, a symbolic or a hard link.
  llvm::Error checkOutput(llvm::StringRef output) const;

private:
  std::map<llvm::sys::fs::UniqueID, std::string> paths; // by device and inode
};

} // namespace moe

#endif
