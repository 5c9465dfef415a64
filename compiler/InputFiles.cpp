// Files are the same if device and inode are.
#include "compiler/InputFiles.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

namespace fs = llvm::sys::fs;

namespace moe {

void InputFiles::addFile(llvm::StringRef path) {
  fs::UniqueID id;
  if (!fs::getUniqueID(path, id) && !fs::is_directory(path))
    paths.try_emplace(id, path.str());
}

void InputFiles::addFolder(llvm::StringRef path) {
  std::error_code code;
  for (fs::directory_iterator file(path, code), end; !code && file != end; file.increment(code))
    if (llvm::is_contained({".safetensors", ".json", ".model", ".jinja"},
                           llvm::sys::path::extension(file->path())))
      addFile(file->path());
}

llvm::Error InputFiles::checkOutput(llvm::StringRef output) const {
  fs::UniqueID id;
  if (fs::getUniqueID(output, id)) // a new file
    return llvm::Error::success();
  auto input = paths.find(id);
  if (input == paths.end())
    return llvm::Error::success();
  return llvm::createStringError("cannot write '" + output + "': it is the same file as '" +
                                 input->second +
                                 "', which is an input; give the output another path with -o");
}

} // namespace moe
