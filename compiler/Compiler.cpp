// Import, passes, code generation, plan: one after the other.
#include "compiler/Compiler.h"
#include "compiler/codegen/LowerToPlan.h"
#include "compiler/codegen/cpu/ToObject.h"
#include "compiler/import/Llama4.h"
#include "compiler/import/RandomWeights.h"
#include "compiler/import/Safetensors.h"
#include "compiler/import/TokenizerFile.h"
#include "compiler/plan/PlanWriter.h"
#include "dialects/moe/MoeOps.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/Pass/PassManager.h"
#include "passes/Pipeline.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

using namespace mlir;

namespace moe {

namespace {

// One compilation; holds what lives through all of its levels.
class Compilation {
public:
  Compilation(const CompileOptions &options, raw_ostream &out, const CompileEvents &events)
      : options(options), out(out), events(events),
        diagnostics(&context, [this](Diagnostic &diagnostic) {
          llvm::raw_string_ostream(messages) << (messages.empty() ? "" : "\n") << diagnostic.str();
          return success();
        }) {
    context.loadDialect<MoeDialect, plan::PlanDialect, func::FuncDialect, arith::ArithDialect,
                        LLVM::LLVMDialect, math::MathDialect, scf::SCFDialect,
                        vector::VectorDialect>();
  }

  llvm::Error run();

private:
  llvm::Error readInput();
  llvm::Error readTokenizer();
  llvm::Error checkPassNames();
  llvm::Error runPasses(StringRef what, ModuleOp module,
                        llvm::function_ref<void(OpPassManager &)> build);
  llvm::Error printKernels(codegen::PlanIr &plan);
  llvm::Expected<CodeImage> makeImage(codegen::PlanIr &plan, size_t target);
  llvm::Error writeFile(codegen::PlanIr &plan);

  llvm::Error failed(StringRef what) {
    return llvm::createStringError(
        what + " failed: " + (messages.empty() ? "no diagnostic was given" : messages));
  }
  void note(const std::string &text) const {
    if (events.note)
      events.note(text);
  }
  bool cancelled() const { return events.cancel && events.cancel->load(); }

  const CompileOptions &options;
  raw_ostream &out;
  const CompileEvents &events;
  MLIRContext context;
  std::string messages; // diagnostics, in the order of their arrival
  ScopedDiagnosticHandler diagnostics;

  Llama4Config config;
  std::unique_ptr<TensorSource> tensors;
  std::vector<std::string> ignored;
  std::optional<TokenizerModel> tokenizer;
  std::vector<codegen::CpuTarget> targets;
};

} // namespace

llvm::Error Compilation::readInput() {
  std::vector<std::string> warnings;
  llvm::SmallString<256> configPath(options.input);
  if (!llvm::sys::fs::exists(options.input))
    return llvm::createStringError("there is no '" + options.input +
                                   "': give the folder of a Llama 4 checkpoint");
  // Weights alone say nothing of the model: its config.json lies beside them.
  llvm::StringRef extension = llvm::sys::path::extension(options.input);
  bool isWeights = extension == ".safetensors" ||
                   llvm::StringRef(options.input).ends_with(".safetensors.index.json");
  if (isWeights) {
    llvm::sys::path::remove_filename(configPath);
    llvm::sys::path::append(configPath, "config.json");
  }
  auto parsed = Llama4Config::open(configPath, warnings);
  if (!parsed)
    return parsed.takeError();
  config = std::move(*parsed);
  if (options.layers)
    if (auto error = config.truncate(*options.layers))
      return error;
  for (const std::string &warning : warnings)
    note("warning: " + warning);

  if (options.randomSeed) {
    tensors = std::make_unique<RandomWeights>(config, *options.randomSeed);
    return llvm::Error::success();
  }
  if (extension == ".json" && !isWeights)
    return llvm::createStringError("'" + options.input +
                                   "' is a configuration without weights: give the checkpoint's "
                                   "folder, or --random-weights SEED for synthetic ones");
  auto checkpoint = Checkpoint::open(options.input);
  if (!checkpoint)
    return checkpoint.takeError();
  tensors = std::make_unique<Checkpoint>(std::move(*checkpoint));
  return llvm::Error::success();
}

llvm::Error Compilation::readTokenizer() {
  if (!options.tokenizer)
    return llvm::Error::success();
  std::vector<std::string> warnings;
  llvm::SmallString<256> folder(options.input);
  if (!llvm::sys::fs::is_directory(folder))
    llvm::sys::path::remove_filename(folder);
  auto model = TokenizerModel::open(folder.empty() ? "." : folder.str(), warnings);
  if (!model)
    return model.takeError();
  for (const std::string &warning : warnings)
    note("warning: " + warning);
  if (!*model && !options.randomSeed)
    return llvm::createStringError("the checkpoint '" + options.input +
                                   "' has neither tokenizer.json nor tokenizer.model: add one, or "
                                   "make a plan that takes token "
                                   "ids only with --no-tokenizer");
  tokenizer = std::move(*model);
  if (!tokenizer)
    return llvm::Error::success();
  int64_t largest = int64_t(tokenizer->tokens.size()) - 1;
  for (const SpecialToken &token : tokenizer->specials)
    largest = std::max<int64_t>(largest, token.id);
  if (largest >= config.vocabSize)
    return llvm::createStringError(
        "the tokenizer has token id " + llvm::Twine(largest) + ", but the model's vocabulary has " +
        llvm::Twine(config.vocabSize) +
        " rows: the tokenizer's files belong to another model; replace them or use --no-tokenizer");
  // transformers starts a prompt with the tokenizer's token, whatever config.json says.
  if (tokenizer->addBos && tokenizer->bos >= 0 && tokenizer->bos != config.bosToken) {
    note("warning: bos_token_id of config.json is " + std::to_string(config.bosToken) +
         ", but the tokenizer starts a text with " + std::to_string(tokenizer->bos) +
         "; the plan does as the tokenizer");
    config.bosToken = tokenizer->bos;
  }
  return llvm::Error::success();
}

// A misspelled --print-after would print nothing.
llvm::Error Compilation::checkPassNames() {
  OpPassManager passes(ModuleOp::getOperationName());
  buildFusePipeline(passes);
  buildPackPipeline(passes, Storage::BF16);
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

// The kernels of each target, at the level that was asked for.
llvm::Error Compilation::printKernels(codegen::PlanIr &plan) {
  for (size_t t = 0; t < targets.size(); ++t) {
    SmallVector<ModuleOp> modules;
    for (codegen::PlanKernel &kernel : plan.kernels)
      modules.push_back(*kernel.modules[t]);
    if (options.emit == Emit::Kernels) {
      for (auto [i, module] : llvm::enumerate(modules)) {
        if (t || i)
          out << "// -----\n";
        if (!i)
          out << "// " << targets[t].name << "\n";
        out << module << "\n";
      }
      continue;
    }
    auto all = codegen::combineKernels(modules);
    if (mlir::failed(codegen::lowerKernels(*all)))
      return failed("lowering the kernels");
    auto text = options.emit == Emit::Llvm ? codegen::toLlvmText(*all, targets[t])
                                           : codegen::toAssembly(*all, targets[t]);
    if (!text)
      return text.takeError();
    out << *text;
  }
  return llvm::Error::success();
}

llvm::Expected<CodeImage> Compilation::makeImage(codegen::PlanIr &plan, size_t target) {
  SmallVector<ModuleOp> modules;
  for (codegen::PlanKernel &kernel : plan.kernels)
    modules.push_back(*kernel.modules[target]);
  auto all = codegen::combineKernels(modules);
  if (mlir::failed(codegen::lowerKernels(*all)))
    return failed("lowering the kernels");
  auto image = codegen::toImage(*all, targets[target]);
  if (!image)
    return image.takeError();
  CodeImage code;
  code.target = image->target.name;
  code.features.assign(image->target.required.begin(), image->target.required.end());
  code.code = std::move(image->code);
  code.entries = std::move(image->entries);
  return code;
}

static fb::ChatFormatT toPlan(const ChatFormat &chat, ArrayRef<int32_t> eosTokens) {
  fb::ChatFormatT format;
  format.bos = chat.bos;
  format.header_start = chat.headerStart;
  format.header_end = chat.headerEnd;
  format.turn_end = chat.turnEnd;
  format.user = chat.user;
  format.assistant = chat.assistant;
  format.system = chat.system;
  format.stop_tokens = chat.stopTokens;
  for (int32_t token : eosTokens)
    if (!llvm::is_contained(format.stop_tokens, token))
      format.stop_tokens.push_back(token);
  return format;
}

llvm::Error Compilation::writeFile(codegen::PlanIr &plan) {
  PlanInputs inputs;
  inputs.module = *plan.module;
  for (size_t t = 0; t < targets.size(); ++t) {
    if (cancelled())
      return llvm::createStringError(std::errc::operation_canceled, "interrupted");
    auto image = makeImage(plan, t);
    if (!image)
      return image.takeError();
    inputs.images.push_back(std::move(*image));
  }
  if (tokenizer) {
    auto tables = buildTokenizerTables(tokenizer->tokens, tokenizer->merges);
    if (!tables)
      return llvm::createStringError("the tokenizer is inconsistent: " + tables.error().message);
    TokenizerInput input;
    auto *bytes = reinterpret_cast<const char *>(tables->data());
    input.tables.assign(bytes, bytes + tables->size());
    input.info.vocab_size = tokenizer->tokens.size();
    input.info.ignore_merges = tokenizer->ignoreMerges;
    input.info.add_bos = tokenizer->addBos;
    input.info.pattern = "llama4";
    for (const SpecialToken &token : tokenizer->specials) {
      auto special = std::make_unique<fb::SpecialTokenT>();
      special->content = token.content;
      special->id = token.id;
      special->special = token.special;
      input.info.special_tokens.push_back(std::move(special));
    }
    inputs.tokenizer = std::move(input);
    if (tokenizer->chat)
      inputs.chat = toPlan(*tokenizer->chat, config.eosTokens);
  }
  llvm::SmallString<256> input(options.input);
  llvm::sys::path::remove_dots(input, true);
  llvm::StringRef last = llvm::sys::path::filename(input);
  if (last == "config.json")
    last = llvm::sys::path::filename(llvm::sys::path::parent_path(input));
  inputs.provenance.checkpoint = last.str();
  inputs.provenance.command = options.command;
  inputs.provenance.ignored = ignored;
  inputs.weights.read = [this](StringRef name, int64_t begin, MutableArrayRef<float> values) {
    return tensors->read(name, begin, values.size(), values.data());
  };
  inputs.weights.shape = [this](StringRef name) -> llvm::Expected<llvm::SmallVector<int64_t>> {
    const TensorInfo *info = tensors->find(name);
    if (!info)
      return llvm::createStringError("the checkpoint has no tensor '" + name + "'");
    return llvm::SmallVector<int64_t>(info->shape.begin(), info->shape.end());
  };
  inputs.packing.allowNonFinite = options.allowNonFinite;
  inputs.jobs = options.jobs;
  return writePlan(inputs, options.output, events.progress, events.cancel);
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

llvm::Error Compilation::run() {
  if (auto error = readInput())
    return error;
  bool f32 = options.weights == "f32";
  if (!f32 && options.weights != "bf16")
    return llvm::createStringError("unknown weight storage '" + options.weights +
                                   "': use f32 or bf16");
  if (options.cache != "f32" && options.cache != "bf16")
    return llvm::createStringError("unknown cache storage '" + options.cache +
                                   "': use f32 or bf16");
  if (options.maxStep < 1 || options.maxStep > 65536)
    return llvm::createStringError("--max-step is " + llvm::Twine(options.maxStep) +
                                   ": use 1 to 65536 tokens");
  for (llvm::StringRef name : options.targets) {
    if (!name.consume_front("cpu:"))
      return llvm::createStringError(
          "unknown target '" + name +
          "': use cpu:x86-64-v4, cpu:x86-64-v3, cpu:aarch64 or cpu:native");
    auto target = codegen::cpuTarget(name);
    if (!target)
      return target.takeError();
    targets.push_back(*target);
  }
  if (targets.empty())
    for (llvm::StringRef name : codegen::cpuTargetNames())
      targets.push_back(*codegen::cpuTarget(name));
  if (auto error = checkPassNames())
    return error;

  if (options.emit == Emit::File)
    if (auto error = readTokenizer())
      return error;
  auto imported = importLlama4(context, config, *tensors,
                               {.cache = options.cache == "f32" ? DType::F32 : DType::BF16});
  if (!imported)
    return imported.takeError();
  ignored = imported->ignored;
  for (const std::string &warning : imported->warnings)
    note("warning: " + warning);
  if (!ignored.empty())
    note("ignored " + std::to_string(ignored.size()) +
         " tensors of the checkpoint: " + byReason(ignored));
  ModuleOp module = *imported->module;
  if (options.emit == Emit::Moe) {
    out << module << "\n";
    return llvm::Error::success();
  }
  if (auto error = runPasses("fusing the model", module, [&](OpPassManager &pm) {
        buildFusePipeline(pm);
        buildPackPipeline(pm, f32 ? Storage::F32 : Storage::BF16);
      }))
    return error;
  if (options.emit == Emit::Fused) {
    out << module << "\n";
    return llvm::Error::success();
  }
  auto plan = codegen::lowerToPlan(module, {.targets = targets, .maxStep = options.maxStep});
  if (mlir::failed(plan))
    return failed("choosing kernels");
  if (auto error = runPasses("planning memory", *plan->module, [](OpPassManager &pm) {
        pm.addNestedPass<plan::ProgramOp>(createPlanMemory());
      }))
    return error;
  switch (options.emit) {
  case Emit::Plan:
    out << *plan->module << "\n";
    return llvm::Error::success();
  case Emit::File:
    return writeFile(*plan);
  default:
    return printKernels(*plan);
  }
}

llvm::Error compile(const CompileOptions &options, raw_ostream &out, const CompileEvents &events) {
  return Compilation(options, out, events).run();
}

} // namespace moe
