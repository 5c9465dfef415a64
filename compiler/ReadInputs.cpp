// The checkpoint, its configuration and tokenizer, and the targets.
#include "compiler/Compilation.h"
#include "compiler/import/LoraTensors.h"
#include "compiler/import/QuantizedTensors.h"
#include "compiler/import/RandomWeights.h"
#include "compiler/import/Safetensors.h"
#include "compiler/targets/cpu/ToObject.h"
#include "compiler/targets/cuda/ToPtx.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

using namespace mlir;

namespace moe {

static constexpr const char *kTargets = "cuda:sm_100a, cuda:sm_90a, cuda:sm_80, cpu:x86-64-v4, "
                                        "cpu:x86-64-v3, cpu:aarch64 or cpu:native";

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

llvm::Expected<Storage> Compilation::cacheOf(DeviceKind device) {
  bool gpu = device == DeviceKind::Cuda;
  const SmallVector<Storage> kept =
      gpu ? SmallVector<Storage>{Storage::F16, Storage::BF16}
          : SmallVector<Storage>{Storage::F32, Storage::BF16, Storage::I8};
  if (options.cache.empty())
    return kept.front();
  for (Storage storage : kept)
    if (options.cache == nameOf(storage))
      return storage;
  if (!llvm::is_contained({"f32", "f16", "int8"}, options.cache))
    return llvm::createStringError("unknown cache storage '" + options.cache +
                                   "': use f32, bf16 or int8 for CPUs, f16 or bf16 for GPUs");
  return llvm::createStringError("a " + StringRef(gpu ? "GPU" : "CPU") +
                                 " keeps no keys and values in " + options.cache +
                                 ": use --cache " + (gpu ? "f16 or bf16" : "f32, bf16 or int8") +
                                 ", or leave it out, and each device takes its own default");
}

} // namespace moe
