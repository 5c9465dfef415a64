// What all targets do with the kernels that they chose.
#include "compiler/targets/Target.h"
#include "compiler/targets/ToLlvm.h"

using namespace mlir;

namespace moe {

llvm::Expected<OwningOpRef<ModuleOp>> Target::lowered(size_t version) {
  codegen::KernelModule all;
  auto add = [&](StringRef, ModuleOp kernel) {
    all.add(kernel);
    return llvm::Error::success();
  };
  if (auto error = visitKernels(version, add))
    return std::move(error);
  OwningOpRef<ModuleOp> module = all.take();
  if (mlir::failed(lowerKernels(*module)))
    return options.failed("lowering the kernels");
  return module;
}

llvm::Expected<std::string> Target::assembly(size_t version, ModuleOp kernel) {
  if (mlir::failed(lowerKernels(kernel)))
    return options.failed("lowering the kernels");
  return textOf(version, kernel, KernelText::Assembly);
}

llvm::Expected<std::string> Target::text(size_t version, KernelText kind) {
  auto all = lowered(version);
  if (!all)
    return all.takeError();
  return textOf(version, **all, kind);
}

} // namespace moe
