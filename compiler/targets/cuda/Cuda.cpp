// Which kernels a model has, and their PTX and cubins, for GPUs of several versions.
#include "compiler/targets/cuda/Cuda.h"
#include "compiler/targets/cuda/CudaKernel.h"
#include "compiler/targets/cuda/CudaTarget.h"
#include "compiler/targets/cuda/LowerToCuda.h"
#include "compiler/targets/cuda/Strips.h"
#include "compiler/targets/cuda/ToPtx.h"
#include "mlir/IR/Verifier.h"

using namespace mlir;

namespace moe {

namespace {
using Kernel = codegen::ChosenKernel<codegen::CudaKernel>;

class Cuda final : public Target {
public:
  using Target::Target;
  StringRef name() const override { return "cuda"; }

  ArrayRef<StringRef> knownVersions() const override { return codegen::cudaTargetNames(); }
  llvm::Error addVersion(StringRef version) override;
  size_t versions() const override { return chosen.size(); }
  std::string versionName(size_t version) const override { return chosen[version].name; }

  ArrayRef<Storage> caches() const override {
    static constexpr Storage kept[] = {Storage::F16, Storage::BF16};
    return kept;
  }
  std::string refusal(WeightRole role, const WeightFormat &format, int64_t columns) const override;

  StringRef assemblyLanguage() const override { return "ptx"; }
  llvm::Expected<std::vector<std::string>> findTools() override;
  FailureOr<OwningOpRef<ModuleOp>> lower(ModuleOp model, int64_t maxStep) override {
    auto found = codegen::lowerToCuda(model, maxStep);
    if (mlir::failed(found))
      return failure();
    kernels = std::move(found->kernels);
    context = model.getContext();
    return std::move(found->module);
  }
  std::vector<std::string> kernelNames() const override {
    std::vector<std::string> names;
    for (const Kernel &kernel : kernels)
      names.push_back(kernel.name);
    return names;
  }
  llvm::Error visitKernels(size_t version, VisitKernel visit) override;
  llvm::Expected<CodeImage> image(size_t version) override;

private:
  llvm::Expected<OwningOpRef<ModuleOp>> emit(const Kernel &kernel, size_t version);
  LogicalResult lowerKernels(ModuleOp module) override { return codegen::lowerCudaKernels(module); }
  llvm::Expected<std::string> textOf(size_t version, ModuleOp module, KernelText kind) override {
    return kind == KernelText::Llvm ? codegen::toNvvmText(module, chosen[version])
                                    : codegen::toPtx(module, chosen[version]);
  }

  std::vector<codegen::CudaTarget> chosen;
  std::vector<Kernel> kernels;
  MLIRContext *context = nullptr; // of the model that was lowered
  std::optional<std::string> ptxas;
};
} // namespace

// A GPU takes the first image that it can, and PTX of an older one is among these.
llvm::Error Cuda::addVersion(StringRef version) {
  auto found = codegen::cudaTarget(version);
  if (!found)
    return found.takeError();
  auto place = [&](const codegen::CudaTarget &target) {
    return llvm::find(knownVersions(), target.chip);
  };
  auto next =
      llvm::find_if(chosen, [&](const auto &other) { return place(other) >= place(*found); });
  if (next == chosen.end() || next->name != found->name)
    chosen.insert(next, *found);
  return llvm::Error::success();
}

std::string Cuda::refusal(WeightRole role, const WeightFormat &format, int64_t columns) const {
  // Rows of the embedding are read one by one, so any group will do.
  if (codegen::takenAsFragments(format, columns) ||
      (role == WeightRole::Rows && format.quantized()))
    return "";
  return "the kernels for cuda take bf16 or codes in groups of 128, 64, 32 or 16 columns or of "
         "whole rows: use for example --weights bf16 or int4, or targets of CPUs alone";
}

llvm::Expected<std::vector<std::string>> Cuda::findTools() {
  std::vector<std::string> paths;
  if (!options.assemblePtx)
    return paths;
  auto found = codegen::findPtxas(options.ptxas);
  if (!found)
    return found.takeError();
  ptxas = *found;
  if (ptxas)
    paths.push_back(*ptxas);
  else
    options.note("no ptxas was found, so the plan has PTX and no cubins: the driver compiles it "
                 "when it is first loaded");
  return paths;
}

llvm::Expected<OwningOpRef<ModuleOp>> Cuda::emit(const Kernel &kernel, size_t version) {
  auto module = codegen::emitKernel(context, kernel, chosen[version]);
  if (!module || mlir::failed(mlir::verify(*module)))
    return options.failed("building kernel " + kernel.name);
  return module;
}

llvm::Error Cuda::visitKernels(size_t version, VisitKernel visit) {
  for (const Kernel &kernel : kernels) {
    auto module = emit(kernel, version);
    if (!module)
      return module.takeError();
    if (auto error = visit(kernel.name, **module))
      return error;
  }
  return llvm::Error::success();
}

llvm::Expected<CodeImage> Cuda::image(size_t version) {
  const codegen::CudaTarget &target = chosen[version];
  auto all = lowered(version);
  if (!all)
    return all.takeError();
  auto ptx = codegen::toPtx(**all, target);
  if (!ptx)
    return ptx.takeError();
  CodeImage image;
  image.device = name();
  image.target = target.name;
  image.kind = CodeImage::Ptx;
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
    for (StringRef line : llvm::split(StringRef(cubin.warnings).trim(), '\n'))
      if (!line.empty())
        options.note(line.str());
  }
  for (const Kernel &kernel : kernels) {
    Operation *function = (*all)->lookupSymbol(kernel.name);
    auto attr = [&](StringRef key) {
      return uint32_t(function->getAttrOfType<IntegerAttr>(key).getInt());
    };
    image.launches[kernel.name] = {.threads = attr("moe.threads"),
                                   .sharedBytes = attr("moe.shared_bytes"),
                                   .blocksPerSm = attr("moe.blocks_per_sm"),
                                   .registers =
                                       uint32_t(cubin.kernels.lookup(kernel.name).registers),
                                   .dependent = function->hasAttr("moe.dependent")};
    image.entries[kernel.name] = 0;
  }
  return image;
}

std::unique_ptr<Target> makeCudaTarget(const TargetOptions &options) {
  return std::make_unique<Cuda>(options);
}

} // namespace moe
