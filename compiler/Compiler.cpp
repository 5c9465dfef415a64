// Import, passes, code generation, plan: one after the other.
#include "compiler/Compilation.h"
#include "compiler/calibrate/Calibrate.h"
#include "compiler/calibrate/CalibrationText.h"
#include "compiler/import/Llama4.h"
#include "dialects/moe/WeightSources.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/Pipeline.h"
#include "passes/Recipe.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/Path.h"
#include <map>

using namespace mlir;

namespace moe {

Compilation::Compilation(const CompileOptions &options, raw_ostream &out,
                         const CompileEvents &events)
    : options(options), out(out), events(events), threads(llvm::hardware_concurrency(options.jobs)),
      context(MLIRContext::Threading::DISABLED),
      diagnostics(&context, [this](Diagnostic &diagnostic) {
        llvm::raw_string_ostream(messages) << (messages.empty() ? "" : "\n") << diagnostic.str();
        return success();
      }) {
  context.setThreadPool(threads);
  context
      .loadDialect<MoeDialect, plan::PlanDialect, func::FuncDialect, arith::ArithDialect,
                   LLVM::LLVMDialect, math::MathDialect, scf::SCFDialect, vector::VectorDialect>();
}

// A misspelled --print-after would print nothing.
llvm::Error Compilation::checkPassNames() {
  OpPassManager passes(ModuleOp::getOperationName());
  buildFusePipeline(passes);
  buildPackPipeline(passes, findTargetFormats, kDefaultTarget, options.weights);
  std::vector<std::string> known;
  for (Pass &pass : passes.getPasses())
    known.push_back(pass.getArgument().str());
  known.push_back(createPlanMemory()->getArgument().str());
  for (llvm::StringRef name : options.printAfter)
    if (!llvm::is_contained(known, name.ltrim('-')))
      return llvm::createStringError("--print-after: there is no pass '" + name + "' among " +
                                     llvm::join(known, ", "));
  return llvm::Error::success();
}

llvm::Error Compilation::runPasses(StringRef what, ModuleOp module,
                                   llvm::function_ref<void(OpPassManager &)> build) {
  PassManager pm(&context, ModuleOp::getOperationName());
  build(pm);
  llvm::StringSet<> wanted;
  for (const std::string &name : options.printAfter)
    wanted.insert(StringRef(name).ltrim('-'));
  // Printing is for one thread; what comes after is not.
  auto restore = llvm::scope_exit([&] {
    if (!context.isMultithreadingEnabled())
      context.setThreadPool(threads);
  });
  if (!wanted.empty()) {
    context.disableMultithreading();
    pm.enableIRPrinting(
        [](Pass *, Operation *) { return false; },
        [wanted](Pass *pass, Operation *) { return wanted.contains(pass->getArgument()); },
        /*printModuleScope=*/false, /*printAfterOnlyOnChange=*/false,
        /*printAfterOnlyOnFailure=*/false, llvm::errs());
  }
  if (mlir::failed(pm.run(module)))
    return failed(what);
  return llvm::Error::success();
}

void Compilation::noteRequantized(ModuleOp packed) {
  std::map<std::pair<std::string, std::string>, llvm::StringSet<>> changed; // by formats
  for (auto weight : packed.getOps<WeightOp>()) {
    auto packing = weight.getPacking();
    if (!packing || !packing->getFormat().isQuantized())
      continue;
    const WeightFormat to = packing->getFormat().getFormat();
    for (const TensorSlice &slice : slicesOf(weight)) {
      const TensorInfo *tensor = tensors->find(slice.tensor);
      if (!tensor || !tensor->codes || tensor->encoding == Encoding{to, slice.transposed})
        continue;
      changed[{tensor->encoding ? nameOf(tensor->encoding->format) : nameOf(*tensor->codes),
               nameOf(to)}]
          .insert(tensor->name);
    }
  }
  if (changed.empty())
    return;
  std::string text;
  for (const auto &[formats, names] : changed)
    text += (text.empty() ? "" : "; ") + std::to_string(names.size()) +
            (names.size() == 1 ? " tensor" : " tensors") + " from " + formats.first + " to " +
            formats.second;
  note("rounds codes of the checkpoint a second time, and the errors add up: " + text +
       "; --weights keep leaves them as they are");
}

llvm::Error Compilation::calibrateWeights(ModuleOp packed) {
  if (!tokenizer)
    return llvm::createStringError("--calibrate needs a tokenizer, and there is none");
  if (!calibrated) {
    constexpr int64_t window = 512;
    auto read = readCalibrationText(options.calibrate, *tokenizer, options.calibrationTokens,
                                    std::min(window, config.maxPositions));
    if (!read)
      return read.takeError();
    windows = std::move(*read);
    auto store = CodeStore::create(llvm::sys::path::parent_path(options.output));
    if (!store)
      return store.takeError();
    auto own = std::make_unique<CalibratedTensors>(std::move(tensors), std::move(*store));
    calibrated = own.get();
    tensors = std::move(own);
  }
  if (auto error = calibrate(packed, *tensors, windows, calibrated->store(),
                             {.progress = events.calibration, .cancel = events.cancel}))
    return error;
  calibrated->adopt(packed);
  return llvm::Error::success();
}

llvm::Error Compilation::lower(ModuleOp model, Target &target) {
  FailureOr<Module> lowered = target.lower(model, options.maxStep);
  if (mlir::failed(lowered))
    return failed("choosing kernels");
  if (!plan)
    plan = std::move(*lowered);
  else // symbols of different targets differ
    plan->getBody()->getOperations().splice(plan->getBody()->end(),
                                            (*lowered)->getBody()->getOperations());
  return llvm::Error::success();
}

// "vision_model.a and 2 more: vision tower, ..." of lines "vision_model.a: vision tower, ..."
static std::string byReason(ArrayRef<std::string> lines) {
  llvm::MapVector<StringRef, std::pair<StringRef, size_t>> reasons; // first name and count
  for (StringRef line : lines) {
    auto [name, reason] = line.split(": ");
    ++reasons.try_emplace(reason, name, 0).first->second.second;
  }
  std::string text;
  llvm::ListSeparator separator("; ");
  for (const auto &[reason, found] : reasons) {
    const auto &[name, count] = found;
    text += (StringRef(separator) + name).str();
    text += (count > 1 ? " and " + std::to_string(count - 1) + " more" : "") + ": " + reason.str();
  }
  return text;
}

// Of the plan's table Model.
static void setModelField(ModuleOp module, StringRef name, StringRef value) {
  NamedAttrList fields(module->getAttrOfType<DictionaryAttr>("moe.model"));
  fields.set(name, StringAttr::get(module.getContext(), value));
  module->setAttr("moe.model", fields.getDictionary(module.getContext()));
}

llvm::Error Compilation::run() {
  if (auto error = readInput())
    return error;
  auto recipe = Recipe::parse(options.weights);
  if (!recipe)
    return llvm::createStringError("--weights: " + llvm::toString(recipe.takeError()));
  if (options.calibrationTokens < 1)
    return llvm::createStringError("--calibrate-tokens is " +
                                   llvm::Twine(options.calibrationTokens) +
                                   ": use 1 or more, 16384 if in doubt");
  if (options.maxStep < 1 || options.maxStep > 65536)
    return llvm::createStringError("--max-step is " + llvm::Twine(options.maxStep) +
                                   ": use 1 to 65536 tokens");
  if (auto error = readTargets())
    return error;
  if (auto error = checkPassNames())
    return error;
  if (options.emit != Emit::Ptx && !options.output.empty()) // printPtx checks its files
    if (auto error = inputs.checkOutput(options.output))
      return error;

  if (options.emit == Emit::File)
    if (auto error = readTokenizer())
      return error;
  auto imported =
      importLlama4(context, config, *tensors,
                   {.cache = *cacheOf(*targets.front()), .hiddenStates = options.embeddings});
  if (!imported)
    return imported.takeError();
  ignored = imported->ignored;
  for (const std::string &warning : imported->warnings)
    note("warning: " + warning);
  if (!ignored.empty())
    note("ignored " + std::to_string(ignored.size()) +
         " tensors of the checkpoint: " + byReason(ignored));
  ModuleOp module = *imported->module;
  if (recipe->base() != "keep") // which the plan writer finds a name for
    setModelField(module, "weights", recipe->base());
  if (options.emit == Emit::Moe) {
    out << module << "\n";
    return llvm::Error::success();
  }
  if (auto error = runPasses("fusing the model", module, buildFusePipeline))
    return error;
  for (const std::unique_ptr<Target> &target : targets) {
    const bool first = target == targets.front();
    // The last target takes the module itself.
    if (target == targets.back())
      models.push_back(std::move(imported->module));
    else
      models.push_back(module.clone());
    ModuleOp own = *models.back();
    Type element = typeOf(*cacheOf(*target), &context);
    for (CacheOp cache : own.getOps<CacheOp>())
      cache.setElement(element);
    if (auto error = runPasses("packing the weights", own, [&](OpPassManager &pm) {
          buildPackPipeline(pm, findTargetFormats, target->name(), options.weights);
        }))
      return error;
    if (first) // the others take the same formats
      noteRequantized(own);
    if (options.emit == Emit::File && !options.calibrate.empty())
      if (auto error = calibrateWeights(own))
        return error;
    if (options.emit == Emit::Fused) {
      if (targets.size() > 1)
        out << (first ? "" : "// -----\n") << "// " << target->name() << "\n";
      out << own << "\n";
    } else if (auto error = lower(own, *target)) {
      return error;
    }
  }
  if (options.emit == Emit::Fused)
    return llvm::Error::success();
  if (auto error = runPasses("planning memory", *plan, [](OpPassManager &pm) {
        pm.addNestedPass<plan::ProgramOp>(createPlanMemory());
      }))
    return error;
  switch (options.emit) {
  case Emit::Plan:
    out << *plan << "\n";
    return llvm::Error::success();
  case Emit::File:
    return writeFile();
  case Emit::Ptx:
    return printPtx();
  default:
    return printKernels();
  }
}

llvm::Error compile(const CompileOptions &options, raw_ostream &out, const CompileEvents &events) {
  return Compilation(options, out, events).run();
}

} // namespace moe
