// Which kernels a model has, and their machine code, for processors of several versions.
#include "compiler/targets/cpu/Cpu.h"
#include "compiler/targets/cpu/CpuTarget.h"
#include "compiler/targets/cpu/LowerToCpu.h"
#include "compiler/targets/cpu/ToObject.h"

using namespace mlir;

namespace moe {

namespace {
class Cpu final : public Target {
public:
  using Target::Target;
  StringRef name() const override { return "cpu"; }

  ArrayRef<StringRef> knownVersions() const override { return codegen::cpuTargetNames(); }
  StringRef nativeVersion() const override { return "native"; }
  llvm::Error addVersion(StringRef version) override {
    auto found = codegen::cpuTarget(version);
    if (!found)
      return found.takeError();
    if (llvm::none_of(chosen, [&](const auto &other) { return other.name == found->name; }))
      chosen.push_back(*found);
    // A machine takes the first image that it can run.
    auto rank = [](const codegen::CpuTarget &target) {
      return llvm::find(codegen::cpuTargetNames(), StringRef(target.name).split(':').second);
    };
    llvm::sort(chosen, [&](const auto &a, const auto &b) { return rank(a) < rank(b); });
    return llvm::Error::success();
  }
  size_t versions() const override { return chosen.size(); }
  std::string versionName(size_t version) const override { return chosen[version].name; }

  // Rounding keys and values to bf16 makes nearly tied experts change places more than all other
  // rounding does, so that they are kept as they are by default.
  ArrayRef<Storage> caches() const override {
    static constexpr Storage kept[] = {Storage::F32, Storage::BF16, Storage::I8};
    return kept;
  }
  std::string refusal(WeightRole role, const WeightFormat &format, int64_t columns) const override;

  StringRef assemblyLanguage() const override { return "asm"; }
  FailureOr<OwningOpRef<ModuleOp>> lower(ModuleOp model, int64_t maxStep) override {
    auto found = codegen::lowerToCpu(model, chosen, maxStep);
    if (mlir::failed(found))
      return failure();
    kernels = std::move(found->kernels);
    return std::move(found->module);
  }
  std::vector<std::string> kernelNames() const override {
    std::vector<std::string> names;
    for (const codegen::CpuPlanKernel &kernel : kernels)
      names.push_back(kernel.chosen.name);
    return names;
  }
  llvm::Error visitKernels(size_t version, VisitKernel visit) override;
  llvm::Expected<CodeImage> image(size_t version) override;

private:
  LogicalResult lowerKernels(ModuleOp module) override { return codegen::lowerKernels(module); }
  llvm::Expected<std::string> textOf(size_t version, ModuleOp module, KernelText kind) override {
    return kind == KernelText::Llvm ? codegen::toLlvmText(module, chosen[version])
                                    : codegen::toAssembly(module, chosen[version]);
  }

  std::vector<codegen::CpuTarget> chosen;
  std::vector<codegen::CpuPlanKernel> kernels;
};
} // namespace

std::string Cpu::refusal(WeightRole role, const WeightFormat &format, int64_t columns) const {
  int64_t unit = format.element == Storage::F8E4M3 ? 2 : 4;
  if (!format.quantized() || format.group == columns || format.group % unit == 0)
    return "";
  return "the kernels for cpu take groups of a multiple of " + std::to_string(unit) +
         " columns, or of a whole row: give another format with --weights";
}

llvm::Error Cpu::visitKernels(size_t version, VisitKernel visit) {
  for (const codegen::CpuPlanKernel &kernel : kernels)
    if (auto error = visit(kernel.chosen.name, ModuleOp(*kernel.modules[version])))
      return error;
  return llvm::Error::success();
}

llvm::Expected<CodeImage> Cpu::image(size_t version) {
  auto all = lowered(version);
  if (!all)
    return all.takeError();
  auto made = codegen::toImage(**all, chosen[version]);
  if (!made)
    return made.takeError();
  CodeImage image;
  image.device = name();
  image.target = made->target.name;
  image.features.assign(made->target.required.begin(), made->target.required.end());
  image.code = std::move(made->code);
  image.entries = std::move(made->entries);
  return image;
}

std::unique_ptr<Target> makeCpuTarget(const TargetOptions &options) {
  return std::make_unique<Cpu>(options);
}

} // namespace moe
