// Prints the kernels of the targets.
#include "compiler/Compilation.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

using namespace mlir;

namespace moe {

llvm::Error Compilation::printKernels() {
  bool first = true;
  for (const std::unique_ptr<Target> &target : targets)
    for (size_t version = 0; version < target->versions(); ++version) {
      if (options.emit != Emit::Kernels) {
        auto text = target->text(version, options.emit == Emit::Llvm ? KernelText::Llvm
                                                                     : KernelText::Assembly);
        if (!text)
          return text.takeError();
        out << *text;
        continue;
      }
      bool firstOfVersion = true;
      auto print = [&](StringRef, ModuleOp kernel) {
        if (!std::exchange(first, false))
          out << "// -----\n";
        if (std::exchange(firstOfVersion, false))
          out << "// " << target->versionName(version) << "\n";
        out << kernel << "\n";
        return llvm::Error::success();
      };
      if (auto error = target->visitKernels(version, print))
        return error;
    }
  return llvm::Error::success();
}

static llvm::Error writeFile(StringRef path, StringRef text) {
  auto write = [&](llvm::raw_ostream &file) {
    file << text;
    return llvm::Error::success();
  };
  if (auto error = llvm::writeToOutput(path, write))
    return llvm::createStringError("cannot write '" + path +
                                   "': " + llvm::toString(std::move(error)));
  return llvm::Error::success();
}

llvm::Error Compilation::printPtx() {
  for (const std::unique_ptr<Target> &target : targets) {
    if (target->assemblyLanguage() != "ptx")
      continue;
    for (size_t version = 0; version < target->versions(); ++version) {
      const std::string of = target->versionName(version);
      llvm::SmallString<256> folder(options.output);
      if (!folder.empty()) {
        llvm::sys::path::append(folder, of);
        if (std::error_code code = llvm::sys::fs::create_directories(folder))
          return llvm::createStringError("cannot make the folder '" + folder +
                                         "': " + code.message());
      }
      auto print = [&](StringRef name, ModuleOp kernel) -> llvm::Error {
        auto text = target->assembly(version, kernel);
        if (!text)
          return text.takeError();
        if (folder.empty()) {
          out << "// " << of << " " << name << "\n" << *text;
          return llvm::Error::success();
        }
        llvm::SmallString<256> path(folder);
        llvm::sys::path::append(path, name + ".ptx");
        return moe::writeFile(path, *text);
      };
      if (auto error = target->visitKernels(version, print))
        return error;
    }
  }
  return llvm::Error::success();
}

} // namespace moe
