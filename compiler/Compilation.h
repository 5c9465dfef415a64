// One compilation, from options to a plan or to printed IR: what lives through all of its levels.
// Private to the files of this folder that hold its parts, which run in this order: ReadInputs.cpp,
// Compiler.cpp, PrintKernels.cpp, WriteFile.cpp.
#ifndef MOE_COMPILER_COMPILATION_H
#define MOE_COMPILER_COMPILATION_H

#include "compiler/Compiler.h"
#include "compiler/InputFiles.h"
#include "compiler/calibrate/CalibratedTensors.h"
#include "compiler/import/Config.h"
#include "compiler/import/TokenizerFile.h"
#include "compiler/plan/PlanWriter.h"
#include "compiler/targets/Targets.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/Pass/PassManager.h"
#include "passes/Passes.h"
#include "llvm/Support/ThreadPool.h"

namespace moe {

class Compilation {
public:
  Compilation(const CompileOptions &options, llvm::raw_ostream &out, const CompileEvents &events);

  llvm::Error run();

private:
  using Module = mlir::OwningOpRef<mlir::ModuleOp>;

  // ReadInputs.cpp
  std::string folderOfInput() const; // of the checkpoint
  llvm::Error readInput();
  llvm::Error readTokenizer();
  llvm::Error chooseTools(); // of a conversation
  llvm::Error findPictureTokens();
  llvm::Error readTargets();
  // How a target keeps keys and values.
  llvm::Expected<Storage> cacheOf(const Target &target);

  // Compiler.cpp
  llvm::Error checkPassNames();
  llvm::Error runPasses(llvm::StringRef what, mlir::ModuleOp module,
                        llvm::function_ref<void(mlir::OpPassManager &)> build);
  // Notes which of the checkpoint's codes become other codes.
  void noteRequantized(mlir::ModuleOp packed);
  // Chooses the codes of int4 and int8 weights by the calibration text, and makes the weights read
  // them.
  llvm::Error calibrateWeights(mlir::ModuleOp packed);

  // Chooses the kernels of a target for its own packing of the fused model, and adds their calls to
  // the plan.
  llvm::Error lower(mlir::ModuleOp model, Target &target);

  // PrintKernels.cpp
  // The kernels of each target, at the level that was asked for.
  llvm::Error printKernels();
  // Each kernel by itself as PTX, into a file where there is a folder for them.
  llvm::Error printPtx();

  // WriteFile.cpp
  llvm::Error writeFile();

  llvm::Error failed(const llvm::Twine &what) {
    return llvm::createStringError(
        what + " failed: " + (messages.empty() ? "no diagnostic was given" : messages));
  }
  void note(const std::string &text) const {
    if (events.note)
      events.note(text);
  }
  bool cancelled() const { return events.cancel && events.cancel->load(); }

  const CompileOptions &options;
  llvm::raw_ostream &out;
  const CompileEvents &events;
  llvm::DefaultThreadPool threads; // of passes and calibration; the writer has its own
  mlir::MLIRContext context;
  std::string messages; // diagnostics, in the order of their arrival
  mlir::ScopedDiagnosticHandler diagnostics;

  InputFiles inputs;
  Llama4Config config;
  std::unique_ptr<TensorSource> tensors;
  CalibratedTensors *calibrated = nullptr;   // where `tensors` is that
  std::vector<std::vector<int32_t>> windows; // of the calibration text
  std::vector<std::string> ignored;
  std::optional<TokenizerModel> tokenizer;
  Targets targets;

  std::vector<Module> models; // with weights packed, for each of `targets`
  Module plan;                // of all targets
};

} // namespace moe

#endif
