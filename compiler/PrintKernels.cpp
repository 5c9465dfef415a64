// Prints the kernels of the targets.
#include "compiler/Compilation.h"
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

static llvm::Error writeText(StringRef path, StringRef text) {
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
  const bool toFiles = !options.output.empty();
  auto pathOf = [&](StringRef target, StringRef kernel) {
    llvm::SmallString<256> path(options.output);
    llvm::sys::path::append(path, target, kernel + ".ptx");
    return path.str().str();
  };
  auto forEachVersion =
      [&](llvm::function_ref<llvm::Error(Target &, size_t version, const std::string &name)> visit)
      -> llvm::Error {
    for (const std::unique_ptr<Target> &target : targets)
      for (size_t version = 0; version < target->versions(); ++version)
        if (target->assemblyLanguage() == "ptx")
          if (auto error = visit(*target, version, target->versionName(version)))
            return error;
    return llvm::Error::success();
  };
  if (toFiles) { // all are checked before the first is written
    auto check = [&](Target &target, size_t, const std::string &name) -> llvm::Error {
      for (const std::string &kernel : target.kernelNames())
        if (auto error = inputs.checkOutput(pathOf(name, kernel)))
          return error;
      return llvm::Error::success();
    };
    if (auto error = forEachVersion(check))
      return error;
  }
  return forEachVersion([&](Target &target, size_t version, const std::string &name) {
    llvm::SmallString<256> folder(options.output);
    llvm::sys::path::append(folder, name);
    if (toFiles)
      if (std::error_code code = llvm::sys::fs::create_directories(folder))
        return llvm::createStringError("cannot make the folder '" + folder +
                                       "': " + code.message());
    return target.visitKernels(version, [&](StringRef kernel, ModuleOp module) -> llvm::Error {
      auto text = target.assembly(version, module);
      if (!text)
        return text.takeError();
      if (toFiles)
        return writeText(pathOf(name, kernel), *text);
      out << "// " << name << " " << kernel << "\n" << *text;
      return llvm::Error::success();
    });
  });
}

} // namespace moe
