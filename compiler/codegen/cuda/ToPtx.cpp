// Lowers CUDA kernels to LLVM, optimises, and prints PTX.
#include "compiler/codegen/cuda/ToPtx.h"
#include "compiler/codegen/cuda/HazardCheck.h"
#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "mlir/Transforms/Passes.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Analysis/TargetLibraryInfo.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Program.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"
#include <cstdlib>

using namespace mlir;

namespace moe::codegen {

LogicalResult lowerCudaKernels(ModuleOp module) {
  PassManager pm(module.getContext(), ModuleOp::getOperationName());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
  pm.addPass(createSCFToControlFlowPass());
  ConvertVectorToLLVMPassOptions vectors;
  pm.addPass(createConvertVectorToLLVMPass(vectors));
  pm.addPass(createConvertMathToLLVMPass());
  pm.addPass(createArithToLLVMConversionPass());
  pm.addPass(createUBToLLVMConversionPass());
  pm.addPass(createConvertControlFlowToLLVMPass());
  pm.addPass(createReconcileUnrealizedCastsPass());
  pm.addPass(createCanonicalizerPass());
  if (failed(pm.run(module)))
    return failure();
  return checkNvvmHazards(module);
}

namespace {
// LLVM's view of a module of kernels.
struct Code {
  llvm::LLVMContext context;
  std::unique_ptr<llvm::Module> module;
  std::unique_ptr<llvm::TargetMachine> machine;
};
} // namespace

static llvm::Expected<std::unique_ptr<Code>> optimise(ModuleOp module, const CudaTarget &target) {
  static bool initialised = [] {
    llvm::InitializeAllTargetInfos();
    llvm::InitializeAllTargets();
    llvm::InitializeAllTargetMCs();
    llvm::InitializeAllAsmPrinters();
    return true;
  }();
  (void)initialised;
  registerBuiltinDialectTranslation(*module.getContext());
  registerLLVMDialectTranslation(*module.getContext());
  auto code = std::make_unique<Code>();
  code->module = translateModuleToLLVMIR(module, code->context, "kernels");
  if (!code->module)
    return llvm::createStringError("the kernels for " + target.name +
                                   " do not translate to LLVM IR");
  std::string error;
  llvm::Triple triple("nvptx64-nvidia-cuda");
  const llvm::Target *backend = llvm::TargetRegistry::lookupTarget(triple, error);
  if (!backend)
    return llvm::createStringError("this LLVM has no back end for PTX: " + error);
  llvm::TargetOptions options;
  options.AllowFPOpFusion = llvm::FPOpFusion::Standard;
  code->machine.reset(backend->createTargetMachine(triple, target.chip, target.ptx, options,
                                                   std::nullopt, std::nullopt,
                                                   llvm::CodeGenOptLevel::Aggressive));
  code->module->setTargetTriple(triple);
  code->module->setDataLayout(code->machine->createDataLayout());
  for (llvm::Function &f : *code->module) {
    if (f.isDeclaration())
      continue;
    f.addFnAttr("target-cpu", target.chip);
    f.addFnAttr("target-features", target.ptx);
    f.addFnAttr("no-builtins"); // a kernel has no library to call
    f.addFnAttr(llvm::Attribute::NoUnwind);
  }

  llvm::LoopAnalysisManager lam;
  llvm::FunctionAnalysisManager fam;
  llvm::CGSCCAnalysisManager cam;
  llvm::ModuleAnalysisManager mam;
  llvm::TargetLibraryInfoImpl library(triple);
  library.disableAllFunctions();
  fam.registerPass([&] { return llvm::TargetLibraryAnalysis(library); });
  llvm::PassBuilder passes(code->machine.get());
  passes.registerModuleAnalyses(mam);
  passes.registerCGSCCAnalyses(cam);
  passes.registerFunctionAnalyses(fam);
  passes.registerLoopAnalyses(lam);
  passes.crossRegisterProxies(lam, fam, cam, mam);
  passes.buildPerModuleDefaultPipeline(llvm::OptimizationLevel::O3).run(*code->module, mam);
  return code;
}

llvm::Expected<std::string> toNvvmText(ModuleOp module, const CudaTarget &target) {
  auto code = optimise(module, target);
  if (!code)
    return code.takeError();
  std::string text;
  llvm::raw_string_ostream(text) << *(*code)->module;
  return text;
}

llvm::Expected<std::string> toPtx(ModuleOp module, const CudaTarget &target) {
  auto code = optimise(module, target);
  if (!code)
    return code.takeError();
  llvm::SmallString<0> text;
  llvm::raw_svector_ostream stream(text);
  llvm::legacy::PassManager pm;
  if ((*code)->machine->addPassesToEmitFile(pm, stream, nullptr,
                                            llvm::CodeGenFileType::AssemblyFile))
    return llvm::createStringError("the LLVM back end cannot print PTX");
  pm.run(*(*code)->module);
  return std::string(text);
}

//===----------------------------------------------------------------------===//
// The assembler
//===----------------------------------------------------------------------===//

llvm::Expected<std::optional<std::string>> findPtxas(StringRef given) {
  if (!given.empty()) {
    if (!llvm::sys::fs::can_execute(given))
      return llvm::createStringError("'" + given +
                                     "' is no program that can run: give the path of ptxas");
    return given.str();
  }
  if (const char *path = std::getenv("MOE_PTXAS"))
    return *path ? findPtxas(path) : std::optional<std::string>();
  if (auto path = llvm::sys::findProgramByName("ptxas"))
    return *path;
  if (auto path = llvm::sys::findProgramByName("ptxas", {"/usr/local/cuda/bin"}))
    return *path;
  return std::nullopt;
}

// The number before `what` in a line such as "Used 31 registers, used 1 barriers, 400 bytes smem".
static int64_t numberBefore(StringRef line, StringRef what) {
  StringRef before = line.take_front(line.find(what));
  if (before.size() == line.size())
    return 0;
  int64_t value = 0;
  before.rtrim().rsplit(' ').second.getAsInteger(10, value);
  return value;
}

static void readReport(StringRef report, Cubin &cubin) {
  Assembled *kernel = nullptr;
  for (StringRef line : llvm::split(report, '\n')) {
    if (line.contains("Compiling entry function"))
      kernel = &cubin.kernels[line.split('\'').second.split('\'').first];
    else if (line.contains("warning") || line.contains("(C75")) // "serialized" is but an info
      cubin.warnings += (line + "\n").str();
    if (!kernel)
      continue;
    if (line.contains("spill stores"))
      kernel->spillBytes = numberBefore(line, "bytes spill stores");
    if (line.contains(" registers")) {
      kernel->registers = numberBefore(line, "registers");
      kernel->sharedBytes = numberBefore(line, "bytes smem");
      kernel->barriers = numberBefore(line, "barriers");
    }
  }
}

llvm::Expected<Cubin> assemble(StringRef ptxas, StringRef ptx, const CudaTarget &target) {
  llvm::SmallString<128> folder;
  if (llvm::sys::fs::createUniqueDirectory("moec", folder))
    return llvm::createStringError("cannot make a temporary folder; set TMPDIR to a writable one");
  auto removal = llvm::make_scope_exit([&] { llvm::sys::fs::remove_directories(folder); });
  std::string base = std::string(folder), in = base + "/kernels.ptx", out = base + "/kernels.cubin",
              report = base + "/report";
  {
    std::error_code code;
    llvm::raw_fd_ostream stream(in, code);
    if (!code)
      stream << ptx;
    stream.close();
    if (code || stream.has_error())
      return llvm::createStringError("cannot write the temporary file " + in);
  }
  std::string arch = "-arch=" + target.chip, message;
  int result = llvm::sys::ExecuteAndWait(ptxas, {ptxas, "-v", arch, "-O3", in, "-o", out},
                                         /*Env=*/std::nullopt, {"", report, report},
                                         /*SecondsToWait=*/0, /*MemoryLimit=*/0, &message);
  std::string said = message;
  if (auto text = llvm::MemoryBuffer::getFile(report))
    said += (*text)->getBuffer().str();
  if (result != 0)
    return llvm::createStringError(ptxas + " refused the kernels for " + target.name + ": " + said);
  auto file = llvm::MemoryBuffer::getFile(out);
  if (!file)
    return llvm::createStringError("cannot read back what " + ptxas + " wrote");
  Cubin cubin;
  cubin.bytes.assign((*file)->getBufferStart(), (*file)->getBufferEnd());
  readReport(said, cubin);
  return cubin;
}

} // namespace moe::codegen
