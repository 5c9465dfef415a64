// Chooses the kernels of the devices, prints them, or makes the machine code of the targets.
#include "compiler/Compilation.h"
#include "compiler/targets/cpu/ToObject.h"
#include "compiler/targets/cuda/LowerToCuda.h"
#include "compiler/targets/cuda/ToPtx.h"
#include "mlir/IR/Verifier.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

using namespace mlir;

namespace moe {

llvm::Error Compilation::lower(ModuleOp model, DeviceKind device) {
  OwningOpRef<ModuleOp> own;
  if (device == DeviceKind::Cuda) {
    auto lowered = codegen::lowerToCuda(model, options.maxStep);
    if (mlir::failed(lowered))
      return failed("choosing kernels");
    own = std::move(lowered->module);
    gpuKernels = std::move(lowered->kernels);
  } else {
    auto lowered = codegen::lowerToCpu(model, cpus, options.maxStep);
    if (mlir::failed(lowered))
      return failed("choosing kernels");
    own = std::move(lowered->module);
    cpuKernels = std::move(lowered->kernels);
  }
  if (!plan)
    plan = std::move(own);
  else // symbols of different devices differ
    plan->getBody()->getOperations().splice(plan->getBody()->end(),
                                            own->getBody()->getOperations());
  return llvm::Error::success();
}

llvm::Expected<OwningOpRef<ModuleOp>> Compilation::cudaKernel(const codegen::CudaSpec &spec,
                                                              const codegen::CudaTarget &target) {
  auto module = codegen::emitCudaKernel(&context, spec, target);
  if (!module || mlir::failed(mlir::verify(*module)))
    return failed("building kernel " + codegen::nameOf(spec));
  return module;
}

llvm::Expected<OwningOpRef<ModuleOp>> Compilation::cudaKernels(const codegen::CudaTarget &target) {
  std::vector<OwningOpRef<ModuleOp>> owned;
  SmallVector<ModuleOp> modules;
  for (const codegen::CudaSpec &spec : gpuKernels) {
    auto module = cudaKernel(spec, target);
    if (!module)
      return module.takeError();
    modules.push_back(**module);
    owned.push_back(std::move(*module));
  }
  auto all = codegen::combineKernels(modules);
  if (mlir::failed(codegen::lowerCudaKernels(*all)))
    return failed("lowering the kernels");
  return all;
}

llvm::Error Compilation::printKernels() {
  if (options.emit == Emit::Kernels) {
    bool first = true;
    auto print = [&](const std::string &target, bool firstOfTarget, ModuleOp module) {
      if (!std::exchange(first, false))
        out << "// -----\n";
      if (firstOfTarget)
        out << "// " << target << "\n";
      out << module << "\n";
    };
    for (const codegen::CudaTarget &target : gpus)
      for (const auto &[i, spec] : llvm::enumerate(gpuKernels)) {
        auto module = cudaKernel(spec, target);
        if (!module)
          return module.takeError();
        print(target.name, i == 0, **module);
      }
    for (const auto &[t, target] : llvm::enumerate(cpus))
      for (const auto &[i, kernel] : llvm::enumerate(cpuKernels))
        print(target.name, i == 0, *kernel.modules[t]);
    return llvm::Error::success();
  }
  for (const codegen::CudaTarget &target : gpus) {
    auto all = cudaKernels(target);
    if (!all)
      return all.takeError();
    auto text = options.emit == Emit::Llvm ? codegen::toNvvmText(**all, target)
                                           : codegen::toPtx(**all, target);
    if (!text)
      return text.takeError();
    out << *text;
  }
  for (const auto &[t, target] : llvm::enumerate(cpus)) {
    SmallVector<ModuleOp> modules;
    for (const codegen::CpuPlanKernel &kernel : cpuKernels)
      modules.push_back(ModuleOp(*kernel.modules[t]));
    auto all = codegen::combineKernels(modules);
    if (mlir::failed(codegen::lowerKernels(*all)))
      return failed("lowering the kernels");
    auto text = options.emit == Emit::Llvm ? codegen::toLlvmText(*all, target)
                                           : codegen::toAssembly(*all, target);
    if (!text)
      return text.takeError();
    out << *text;
  }
  return llvm::Error::success();
}

llvm::Error Compilation::printPtx() {
  for (const codegen::CudaTarget &target : gpus) {
    llvm::SmallString<256> folder(options.output);
    if (!folder.empty()) {
      llvm::sys::path::append(folder, target.name);
      if (std::error_code code = llvm::sys::fs::create_directories(folder))
        return llvm::createStringError("cannot make the folder '" + folder +
                                       "': " + code.message());
    }
    for (const codegen::CudaSpec &spec : gpuKernels) {
      auto module = cudaKernel(spec, target);
      if (!module)
        return module.takeError();
      if (mlir::failed(codegen::lowerCudaKernels(**module)))
        return failed("lowering the kernels");
      auto text = codegen::toPtx(**module, target);
      if (!text)
        return text.takeError();
      std::string name = codegen::nameOf(spec);
      if (folder.empty()) {
        out << "// " << target.name << " " << name << "\n" << *text;
        continue;
      }
      llvm::SmallString<256> path(folder);
      llvm::sys::path::append(path, name + ".ptx");
      if (auto error = llvm::writeToOutput(path, [&](llvm::raw_ostream &file) {
            file << *text;
            return llvm::Error::success();
          }))
        return llvm::createStringError("cannot write '" + path +
                                       "': " + llvm::toString(std::move(error)));
    }
  }
  return llvm::Error::success();
}

llvm::Expected<CodeImage> Compilation::makeImage(const codegen::CudaTarget &target) {
  auto all = cudaKernels(target);
  if (!all)
    return all.takeError();
  auto ptx = codegen::toPtx(**all, target);
  if (!ptx)
    return ptx.takeError();
  CodeImage image;
  image.target = target.name;
  image.features = {"cuda", target.chip};
  image.code.assign(ptx->c_str(), ptx->c_str() + ptx->size() + 1); // with its NUL
  codegen::Cubin cubin;
  if (ptxas) {
    auto assembled = codegen::assemble(*ptxas, *ptx, target);
    if (!assembled)
      return llvm::createStringError(llvm::toString(assembled.takeError()) +
                                     "\ngive another assembler with --ptxas, or make a plan "
                                     "without cubins with --no-ptxas");
    cubin = std::move(*assembled);
    image.cubin = std::move(cubin.bytes);
    for (llvm::StringRef line : llvm::split(StringRef(cubin.warnings).trim(), '\n'))
      if (!line.empty())
        note(line.str());
  }
  for (const codegen::CudaSpec &spec : gpuKernels) {
    std::string name = codegen::nameOf(spec);
    Operation *function = (*all)->lookupSymbol(name);
    auto attr = [&](StringRef key) { return function->getAttrOfType<IntegerAttr>(key).getInt(); };
    fb::LaunchT &launch = image.launches[name];
    launch.threads = attr("moe.threads");
    launch.shared_bytes = attr("moe.shared_bytes");
    launch.blocks_per_sm = attr("moe.blocks_per_sm");
    launch.registers = cubin.kernels.lookup(name).registers;
    launch.dependent = function->hasAttr("moe.dependent");
    image.entries[name] = 0;
  }
  return image;
}

llvm::Expected<CodeImage> Compilation::makeImage(size_t target) {
  SmallVector<ModuleOp> modules;
  for (codegen::CpuPlanKernel &kernel : cpuKernels)
    modules.push_back(*kernel.modules[target]);
  auto all = codegen::combineKernels(modules);
  if (mlir::failed(codegen::lowerKernels(*all)))
    return failed("lowering the kernels");
  auto image = codegen::toImage(*all, cpus[target]);
  if (!image)
    return image.takeError();
  CodeImage code;
  code.target = image->target.name;
  code.features.assign(image->target.required.begin(), image->target.required.end());
  code.code = std::move(image->code);
  code.entries = std::move(image->entries);
  return code;
}

} // namespace moe
