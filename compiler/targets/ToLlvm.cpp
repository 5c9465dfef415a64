// Translates kernels to LLVM IR, optimises, and emits.
#include "compiler/targets/ToLlvm.h"
#include "mlir/Conversion/Passes.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "mlir/Transforms/Passes.h"
#include "llvm/Analysis/TargetLibraryInfo.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/TargetSelect.h"

using namespace mlir;

namespace moe::codegen {

void KernelModule::add(ModuleOp kernel) {
  if (!all)
    all = ModuleOp::create(kernel.getLoc());
  auto builder = OpBuilder::atBlockEnd(all->getBody());
  for (Operation &op : *kernel.getBody())
    if (known.insert(cast<SymbolOpInterface>(op).getName()).second)
      builder.clone(op);
}

LogicalResult lowerToLlvmDialect(ModuleOp module) {
  PassManager pm(module.getContext(), ModuleOp::getOperationName());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
  pm.addPass(createSCFToControlFlowPass());
  ConvertVectorToLLVMPassOptions vectors;
  pm.addPass(createConvertVectorToLLVMPass(vectors));
  pm.addPass(createConvertMathToLLVMPass());
  pm.addPass(createArithToLLVMConversionPass());
  pm.addPass(createUBToLLVMConversionPass());
  pm.addPass(createConvertFuncToLLVMPass());
  pm.addPass(createConvertControlFlowToLLVMPass());
  pm.addPass(createReconcileUnrealizedCastsPass());
  pm.addPass(createCanonicalizerPass());
  return pm.run(module);
}

static void optimise(llvm::Module &module, llvm::TargetMachine &machine) {
  llvm::LoopAnalysisManager lam;
  llvm::FunctionAnalysisManager fam;
  llvm::CGSCCAnalysisManager cam;
  llvm::ModuleAnalysisManager mam;
  llvm::TargetLibraryInfoImpl library(module.getTargetTriple());
  library.disableAllFunctions();
  fam.registerPass([&] { return llvm::TargetLibraryAnalysis(library); });
  llvm::PassBuilder passes(&machine);
  passes.registerModuleAnalyses(mam);
  passes.registerCGSCCAnalyses(cam);
  passes.registerFunctionAnalyses(fam);
  passes.registerLoopAnalyses(lam);
  passes.crossRegisterProxies(lam, fam, cam, mam);
  passes.buildPerModuleDefaultPipeline(llvm::OptimizationLevel::O3).run(module, mam);
}

llvm::Expected<std::unique_ptr<LlvmCode>>
LlvmCode::make(ModuleOp module, const LlvmTarget &target,
               llvm::function_ref<void(llvm::Function &)> prepare) {
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
  auto code = std::make_unique<LlvmCode>();
  code->module = translateModuleToLLVMIR(module, code->context, "kernels");
  if (!code->module)
    return llvm::createStringError("the kernels for " + target.name +
                                   " do not translate to LLVM IR");

  std::string error;
  llvm::Triple triple(target.triple);
  const llvm::Target *backend = llvm::TargetRegistry::lookupTarget(triple, error);
  if (!backend)
    return llvm::createStringError("no LLVM back end for " + target.triple + ": " + error);
  llvm::TargetOptions options;
  options.AllowFPOpFusion = llvm::FPOpFusion::Standard;
  code->machine.reset(backend->createTargetMachine(triple, target.cpu, target.features, options,
                                                   target.relocation, std::nullopt,
                                                   llvm::CodeGenOptLevel::Aggressive));
  code->module->setTargetTriple(triple);
  code->module->setDataLayout(code->machine->createDataLayout());
  for (llvm::Function &f : *code->module) {
    if (f.isDeclaration())
      continue;
    f.addFnAttr("target-cpu", target.cpu);
    f.addFnAttr("target-features", target.features);
    f.addFnAttr("no-builtins"); // a kernel has no library to call
    f.addFnAttr(llvm::Attribute::NoUnwind);
    if (prepare)
      prepare(f);
  }
  optimise(*code->module, *code->machine);
  return code;
}

std::string LlvmCode::text() const {
  std::string text;
  llvm::raw_string_ostream(text) << *module;
  return text;
}

llvm::Expected<llvm::SmallVector<char, 0>> LlvmCode::emit(llvm::CodeGenFileType type) {
  llvm::SmallVector<char, 0> bytes;
  llvm::raw_svector_ostream stream(bytes);
  llvm::legacy::PassManager pm;
  if (machine->addPassesToEmitFile(pm, stream, nullptr, type))
    return llvm::createStringError("the LLVM back end cannot emit this kind of file");
  pm.run(*module);
  return bytes;
}

} // namespace moe::codegen
