// Import, passes, code generation, plan: one after the other.
#include "compiler/Compiler.h"
#include "compiler/calibrate/Calibrate.h"
#include "compiler/calibrate/CalibratedTensors.h"
#include "compiler/calibrate/CalibrationText.h"
#include "compiler/codegen/cpu/LowerToCpu.h"
#include "compiler/codegen/cpu/ToObject.h"
#include "compiler/codegen/cuda/CudaKernels.h"
#include "compiler/codegen/cuda/LowerToCuda.h"
#include "compiler/codegen/cuda/ToPtx.h"
#include "compiler/import/Llama4.h"
#include "compiler/import/LoraTensors.h"
#include "compiler/import/QuantizedTensors.h"
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
#include "mlir/IR/Verifier.h"
#include "mlir/Pass/PassManager.h"
#include "passes/Pipeline.h"
#include "passes/Recipe.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/ThreadPool.h"

using namespace mlir;

namespace moe {

namespace {

constexpr const char *kTargets = "cuda:sm_100a, cuda:sm_90a, cuda:sm_80, cpu:x86-64-v4, "
                                 "cpu:x86-64-v3, cpu:aarch64 or cpu:native";

const char *nameOf(DeviceKind device) { return device == DeviceKind::Cuda ? "cuda" : "cpu"; }

// One compilation; holds what lives through all of its levels.
class Compilation {
public:
  Compilation(const CompileOptions &options, raw_ostream &out, const CompileEvents &events)
      : options(options), out(out), events(events),
        threads(llvm::hardware_concurrency(options.jobs)),
        context(MLIRContext::Threading::DISABLED),
        diagnostics(&context, [this](Diagnostic &diagnostic) {
          llvm::raw_string_ostream(messages) << (messages.empty() ? "" : "\n") << diagnostic.str();
          return success();
        }) {
    context.setThreadPool(threads);
    context.loadDialect<MoeDialect, plan::PlanDialect, func::FuncDialect, arith::ArithDialect,
                        LLVM::LLVMDialect, math::MathDialect, scf::SCFDialect,
                        vector::VectorDialect>();
  }

  llvm::Error run();

private:
  llvm::Error readInput();
  llvm::Error readTokenizer();
  llvm::Error readTargets();
  llvm::Expected<DType> cacheOf(DeviceKind device);
  llvm::Error checkPassNames();
  llvm::Error runPasses(StringRef what, ModuleOp module,
                        llvm::function_ref<void(OpPassManager &)> build);
  llvm::Error calibrateWeights(ModuleOp packed);
  llvm::Error lower(ModuleOp model, DeviceKind device);
  llvm::Expected<OwningOpRef<ModuleOp>> cudaKernel(const codegen::CudaSpec &spec,
                                                   const codegen::CudaTarget &target);
  llvm::Expected<OwningOpRef<ModuleOp>> cudaKernels(const codegen::CudaTarget &target);
  llvm::Error printKernels();
  llvm::Error printPtx();
  llvm::Expected<CodeImage> makeImage(size_t target);
  llvm::Expected<CodeImage> makeImage(const codegen::CudaTarget &target);
  llvm::Error writeFile();

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
  llvm::DefaultThreadPool threads; // of passes and calibration; the writer has its own
  MLIRContext context;
  std::string messages; // diagnostics, in the order of their arrival
  ScopedDiagnosticHandler diagnostics;

  Llama4Config config;
  std::unique_ptr<TensorSource> tensors;
  CalibratedTensors *calibrated = nullptr;   // where `tensors` is that
  std::vector<std::vector<int32_t>> windows; // of the calibration text
  std::vector<std::string> ignored;
  std::optional<TokenizerModel> tokenizer;
  std::vector<codegen::CudaTarget> gpus;
  std::vector<codegen::CpuTarget> cpus;
  std::vector<DeviceKind> devices; // those of the targets, best first
  std::optional<std::string> ptxas;

  OwningOpRef<ModuleOp> plan; // of all devices
  std::vector<codegen::CudaSpec> gpuKernels;
  std::vector<codegen::CpuPlanKernel> cpuKernels;
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
  } else if (extension == ".json" && !isWeights) {
    return llvm::createStringError("'" + options.input +
                                   "' is a configuration without weights: give the checkpoint's "
                                   "folder, or --random-weights SEED for synthetic ones");
  } else {
    auto checkpoint = Checkpoint::open(options.input);
    if (!checkpoint)
      return checkpoint.takeError();
    tensors = std::make_unique<Checkpoint>(std::move(*checkpoint));
    if (config.quantization) {
      auto decoded = QuantizedTensors::open(std::move(tensors), *config.quantization, config.dtype);
      if (!decoded)
        return decoded.takeError();
      tensors = std::move(*decoded);
    }
  }
  for (const std::string &folder : options.lora) {
    std::vector<std::string> notes;
    auto merged = LoraTensors::open(std::move(tensors), folder, notes);
    if (!merged)
      return merged.takeError();
    tensors = std::move(*merged);
    for (const std::string &text : notes)
      note(text);
  }
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

llvm::Error Compilation::readTargets() {
  for (llvm::StringRef name : options.targets) {
    if (name.consume_front("cpu:")) {
      auto target = codegen::cpuTarget(name);
      if (!target)
        return target.takeError();
      cpus.push_back(*target);
    } else if (name.consume_front("cuda:")) {
      auto target = codegen::cudaTarget(name);
      if (!target)
        return target.takeError();
      gpus.push_back(*target);
    } else {
      return llvm::createStringError("unknown target '" + name + "': use " + kTargets);
    }
  }
  if (options.targets.empty())
    for (llvm::StringRef name : codegen::cpuTargetNames())
      cpus.push_back(*codegen::cpuTarget(name));
  // A GPU takes the first image that it can, and PTX of an older one is among these.
  llvm::stable_sort(gpus, [](const codegen::CudaTarget &a, const codegen::CudaTarget &b) {
    auto order = codegen::cudaTargetNames();
    return llvm::find(order, a.chip) < llvm::find(order, b.chip);
  });
  auto sameName = [](const auto &a, const auto &b) { return a.name == b.name; };
  gpus.erase(std::unique(gpus.begin(), gpus.end(), sameName), gpus.end());
  if (!gpus.empty())
    devices.push_back(DeviceKind::Cuda);
  if (!cpus.empty())
    devices.push_back(DeviceKind::Cpu);

  for (DeviceKind device : devices)
    if (auto cache = cacheOf(device); !cache)
      return cache.takeError();
  if (options.emit == Emit::Ptx && gpus.empty())
    return llvm::createStringError("--emit=ptx prints the kernels of GPUs, and no target is one: "
                                   "give for example --target cuda:sm_90a");
  if (options.emit == Emit::File && !gpus.empty() && options.assemblePtx) {
    auto found = codegen::findPtxas(options.ptxas);
    if (!found)
      return found.takeError();
    ptxas = *found;
    if (!ptxas)
      note("no ptxas was found, so the plan has PTX and no cubins: the driver compiles it when it "
           "is first loaded");
  }
  return llvm::Error::success();
}

// How a device keeps keys and values.
llvm::Expected<DType> Compilation::cacheOf(DeviceKind device) {
  bool gpu = device == DeviceKind::Cuda;
  StringRef wanted = options.cache;
  if (wanted.empty())
    return gpu ? DType::F16 : DType::F32;
  if (wanted == "bf16")
    return DType::BF16;
  if (wanted == "f32" && !gpu)
    return DType::F32;
  if (wanted == "f16" && gpu)
    return DType::F16;
  if (wanted != "f32" && wanted != "f16")
    return llvm::createStringError("unknown cache storage '" + wanted +
                                   "': use f32 or bf16 for CPUs, f16 or bf16 for GPUs");
  return llvm::createStringError(
      "a " + StringRef(gpu ? "GPU" : "CPU") + " keeps no keys and values in " + wanted +
      ": use --cache " + (gpu ? "f16" : "f32") +
      " or bf16, or leave it out, and each device takes its own default");
}

// A misspelled --print-after would print nothing.
llvm::Error Compilation::checkPassNames() {
  OpPassManager passes(ModuleOp::getOperationName());
  buildFusePipeline(passes);
  buildPackPipeline(passes, DeviceKind::Cpu, options.weights);
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

// Chooses the codes of int4 weights by the calibration text, and makes the weights read them.
llvm::Error Compilation::calibrateWeights(ModuleOp packed) {
  if (!tokenizer)
    return llvm::createStringError("--calibrate needs a tokenizer, and there is none");
  if (!calibrated) {
    constexpr int64_t window = 512;
    auto read = readCalibrationText(options.calibrate, *tokenizer, options.calibrationTokens,
                                    std::min(window, int64_t(config.maxPositions)));
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
  if (auto error =
          calibrate(packed, tensorReader(*tensors, UnknownLoc::get(&context)), windows,
                    calibrated->store(), {.progress = events.calibration, .cancel = events.cancel}))
    return messages.empty() ? std::move(error)
                            : llvm::joinErrors(std::move(error), failed("calibration"));
  calibrated->adopt(packed);
  return llvm::Error::success();
}

// Chooses the kernels of a device for its own packing of the fused model, and adds their calls to
// the plan.
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
  if (mlir::failed(mlir::verify(*module)))
    return failed("building kernel " + codegen::nameOf(spec));
  return module;
}

// All kernels of a GPU as one module, lowered.
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

// The kernels of each target, at the level that was asked for.
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

// Each kernel by itself, into a file where there is a folder for them.
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

llvm::Error Compilation::writeFile() {
  PlanInputs inputs;
  inputs.module = *plan;
  for (size_t t = 0; t < gpus.size() + cpus.size(); ++t) {
    if (cancelled())
      return llvm::createStringError(std::errc::operation_canceled, "interrupted");
    auto image = t < gpus.size() ? makeImage(gpus[t]) : makeImage(t - gpus.size());
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
  inputs.weights.encoding = [this](StringRef name) -> std::optional<WeightEncoding> {
    const TensorInfo *info = tensors->find(name);
    if (!info || !info->encoding)
      return std::nullopt;
    return WeightEncoding{info->encoding->format, info->encoding->inputsFirst};
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

  if (options.emit == Emit::File)
    if (auto error = readTokenizer())
      return error;
  auto imported = importLlama4(context, config, *tensors, {.cache = *cacheOf(devices.front())});
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
  for (DeviceKind device : devices) {
    // The last device takes the module itself.
    OwningOpRef<ModuleOp> copy;
    if (device != devices.back())
      copy = module.clone();
    ModuleOp own = copy ? *copy : module;
    Type element = *cacheOf(device) == DType::F32   ? Type(Float32Type::get(&context))
                   : *cacheOf(device) == DType::F16 ? Type(Float16Type::get(&context))
                                                    : BFloat16Type::get(&context);
    for (CacheOp cache : own.getOps<CacheOp>())
      cache.setElement(element);
    if (auto error = runPasses("packing the weights", own, [&](OpPassManager &pm) {
          buildPackPipeline(pm, device, options.weights);
        }))
      return error;
    if (options.emit == Emit::File && !options.calibrate.empty())
      if (auto error = calibrateWeights(own))
        return error;
    if (options.emit == Emit::Fused) {
      if (devices.size() > 1)
        out << (device != devices.front() ? "// -----\n" : "") << "// " << nameOf(device) << "\n";
      out << own << "\n";
    } else if (auto error = lower(own, device)) {
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
