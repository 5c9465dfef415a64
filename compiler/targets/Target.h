// What a plan can be compiled for. A target is a kind of device, "cpu" or "cuda", with those of its
// versions, "x86-64-v4", that a compilation asks for. All that the rest of the compiler knows of a
// device it asks a Target; Targets.h is the table of them.
#ifndef MOE_COMPILER_TARGETS_TARGET_H
#define MOE_COMPILER_TARGETS_TARGET_H

#include "compiler/targets/CodeImage.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "passes/TargetFormats.h"
#include "runtime/weights/Format.h"
#include "llvm/Support/Error.h"
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace moe {

// What a target needs of the compilation that it is part of.
struct TargetOptions {
  std::string ptxas;       // the assembler of PTX; empty: the one that is found, if any
  bool assemblePtx = true; // false: PTX alone
  std::function<void(const std::string &)> note = [](const std::string &) {};
  // An error that says what failed, with the diagnostics that were emitted.
  std::function<llvm::Error(const llvm::Twine &what)> failed = [](const llvm::Twine &what) {
    return llvm::createStringError(what + " failed");
  };
};

// What kernels can be printed as, all of a version as one text: optimised LLVM IR, or what the back
// end makes of it.
enum class KernelText { Llvm, Assembly };

class Target : public TargetFormats {
public:
  explicit Target(TargetOptions options) : options(std::move(options)) {}

  // As plans have it in Program.device: "cpu".
  virtual llvm::StringRef name() const = 0;

  //===--- Versions ------------------------------------------------------------------------------
  // All that there are, best first; and a name for the one of the machine at hand, or nothing.
  virtual llvm::ArrayRef<llvm::StringRef> knownVersions() const = 0;
  virtual llvm::StringRef nativeVersion() const { return {}; }
  // Asks for a version, once or more often. An unknown name is an error that lists the known ones.
  virtual llvm::Error addVersion(llvm::StringRef version) = 0;
  // Those that were asked for, in the order in which a runtime should try them: how many, and the
  // full name of one, "cpu:x86-64-v4".
  virtual size_t versions() const = 0;
  virtual std::string versionName(size_t version) const = 0;

  //===--- What its kernels read and keep --------------------------------------------------------
  // What keys and values can be kept in, the default first.
  virtual llvm::ArrayRef<Storage> caches() const = 0;
  std::string refusal(WeightRole role, const WeightFormat &format,
                      int64_t columns) const override = 0;

  //===--- Code ----------------------------------------------------------------------------------
  // The language of its assembly: "asm", "ptx".
  virtual llvm::StringRef assemblyLanguage() const = 0;
  // Finds the tools that images are made with, and says their paths.
  virtual llvm::Expected<std::vector<std::string>> findTools() {
    return std::vector<std::string>();
  }
  // Chooses kernels for `@step` of a fused model, packed for this target, with programs of up to
  // `maxStep` tokens, and keeps them. Returns the plan, memory not planned yet; emits a diagnostic
  // and fails where the kernels do not cover the model.
  virtual mlir::FailureOr<mlir::OwningOpRef<mlir::ModuleOp>> lower(mlir::ModuleOp model,
                                                                   int64_t maxStep) = 0;
  // After lower(): the names of the kernels, in the order of first use.
  virtual std::vector<std::string> kernelNames() const = 0;
  // After lower(): calls `visit` for each kernel as it was built for a version.
  using VisitKernel = llvm::function_ref<llvm::Error(llvm::StringRef name, mlir::ModuleOp kernel)>;
  virtual llvm::Error visitKernels(size_t version, VisitKernel visit) = 0;
  // A kernel of visitKernels() alone as assembly. Lowers it in place.
  llvm::Expected<std::string> assembly(size_t version, mlir::ModuleOp kernel);
  llvm::Expected<std::string> text(size_t version, KernelText kind);
  virtual llvm::Expected<CodeImage> image(size_t version) = 0;

protected:
  // All kernels of a version as one module, lowered.
  llvm::Expected<mlir::OwningOpRef<mlir::ModuleOp>> lowered(size_t version);
  // Lowers a module of kernels to the LLVM dialect, in place.
  virtual mlir::LogicalResult lowerKernels(mlir::ModuleOp module) = 0;
  // A module of lowerKernels() as text.
  virtual llvm::Expected<std::string> textOf(size_t version, mlir::ModuleOp module,
                                             KernelText kind) = 0;

  const TargetOptions options;
};

} // namespace moe

#endif
