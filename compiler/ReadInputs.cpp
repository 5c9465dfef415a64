// The checkpoint, its configuration and tokenizer, and the targets.
#include "compiler/Compilation.h"
#include "compiler/import/Llama4Vision.h"
#include "compiler/import/LoraTensors.h"
#include "compiler/import/QuantizedTensors.h"
#include "compiler/import/RandomWeights.h"
#include "compiler/import/Safetensors.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

using namespace mlir;

namespace moe {

std::string Compilation::folderOfInput() const {
  llvm::StringRef folder = options.input;
  if (!llvm::sys::fs::is_directory(folder))
    folder = llvm::sys::path::parent_path(folder);
  return folder.empty() ? "." : folder.str();
}

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
  inputs.addFile(options.input);
  inputs.addFile(options.calibrate);
  inputs.addFolder(folderOfInput());
  for (const std::string &folder : options.lora)
    inputs.addFolder(folder);
  auto parsed = Llama4Config::open(configPath, warnings, options.vision);
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
    for (const std::string &file : checkpoint->files()) // an index may name any
      inputs.addFile(file);
    tensors = std::make_unique<Checkpoint>(std::move(*checkpoint));
    if (config.quantization) {
      auto decoded = QuantizedTensors::open(std::move(tensors), *config.quantization, config.dtype);
      if (!decoded)
        return decoded.takeError();
      tensors = std::move(*decoded);
    }
  }
  if (config.vision && !hasVisionTower(*tensors)) {
    note("warning: config.json has a vision_config, but the checkpoint has no vision tower: the "
         "plan "
         "sees no pictures");
    config.vision.reset();
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
  auto model = TokenizerModel::open(folderOfInput(), warnings);
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
  if (auto error = chooseTools())
    return error;
  if (!tokenizer)
    return llvm::Error::success();
  if (auto error = findPictureTokens())
    return error;
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

// config.json has three of them, the tokenizer all.
llvm::Error Compilation::findPictureTokens() {
  if (!config.vision)
    return llvm::Error::success();
  PictureTokens &tokens = config.vision->tokens;
  struct {
    llvm::StringRef content;
    int32_t &id;
    llvm::StringRef field; // of config.json
  } wanted[] = {{"<|image_start|>", tokens.imageStart, "boi_token_index"},
                {"<|image_end|>", tokens.imageEnd, "eoi_token_index"},
                {"<|patch|>", tokens.patch, "image_token_index"},
                {"<|tile_x_separator|>", tokens.tileXSeparator, ""},
                {"<|tile_y_separator|>", tokens.tileYSeparator, ""},
                {"<|image|>", tokens.image, ""}};
  for (auto &[content, id, field] : wanted) {
    const auto found = llvm::find_if(
        tokenizer->specials, [&](const SpecialToken &token) { return token.content == content; });
    if (found == tokenizer->specials.end())
      return llvm::createStringError(
          "the tokenizer has no special token " + content +
          ", which pictures need: use the tokenizer's files of the model, "
          "or leave pictures out with --no-vision");
    if (!field.empty() && found->id != id)
      return llvm::createStringError(
          field + " of config.json is " + llvm::Twine(id) + ", but the tokenizer has " + content +
          " as " + llvm::Twine(found->id) +
          ": the tokenizer's files belong to another model; replace them, "
          "or leave pictures out with --no-vision");
    id = found->id;
  }
  return llvm::Error::success();
}

llvm::Error Compilation::chooseTools() {
  if (options.tools.empty()) {
    if (tokenizer && !tokenizer->unknownTemplate.empty())
      note("warning: " + tokenizer->unknownTemplate +
           ": its chat template is none that is known, so the plan takes no tools; --tools hf-json "
           "or --tools pythonic says how they are laid out, --tools none that there are none");
    return llvm::Error::success();
  }
  const std::string tools = options.tools == "none" ? "" : options.tools;
  if (!ChatFormat::knowsTools(tools))
    return llvm::createStringError("tools as '" + options.tools +
                                   "', expected hf-json, pythonic or none");
  if (!tools.empty() && !(tokenizer && tokenizer->chat))
    return llvm::createStringError("--tools " + tools +
                                   " is for conversations, and the tokenizer of '" + options.input +
                                   "' has no special tokens for their layout");
  if (tokenizer && tokenizer->chat)
    tokenizer->chat->tools = tools;
  return llvm::Error::success();
}

llvm::Error Compilation::readTargets() {
  TargetOptions of{.ptxas = options.ptxas,
                   .assemblePtx = options.assemblePtx,
                   .note = [this](const std::string &text) { note(text); },
                   .failed = [this](const llvm::Twine &what) { return failed(what); }};
  auto chosen = chooseTargets(options.targets, of);
  if (!chosen)
    return chosen.takeError();
  targets = std::move(*chosen);
  for (const std::unique_ptr<Target> &target : targets)
    if (auto cache = cacheOf(*target); !cache)
      return cache.takeError();
  auto hasPtx = [](const auto &target) { return target->assemblyLanguage() == "ptx"; };
  if (options.emit == Emit::Ptx && llvm::none_of(targets, hasPtx))
    return llvm::createStringError("--emit=ptx prints the kernels of GPUs, and no target is one: "
                                   "give for example --target cuda:sm_90a");
  if (options.emit == Emit::File)
    for (const std::unique_ptr<Target> &target : targets) {
      auto tools = target->findTools();
      if (!tools)
        return tools.takeError();
      for (const std::string &tool : *tools)
        inputs.addFile(tool);
    }
  return llvm::Error::success();
}

// "f32, bf16 or int8"
static std::string namesOf(ArrayRef<Storage> kept) {
  std::string names = nameOf(kept.front());
  for (size_t i = 1; i < kept.size(); ++i)
    names += (i + 1 < kept.size() ? ", " : " or ") + std::string(nameOf(kept[i]));
  return names;
}

llvm::Expected<Storage> Compilation::cacheOf(const Target &target) {
  ArrayRef<Storage> kept = target.caches();
  if (options.cache.empty())
    return kept.front();
  for (Storage storage : kept)
    if (options.cache == nameOf(storage))
      return storage;
  bool known = false; // by another target
  std::string all;
  for (const std::unique_ptr<Target> &other : allTargets()) {
    known |= llvm::is_contained(
        llvm::map_range(other->caches(), [](Storage s) { return StringRef(nameOf(s)); }),
        options.cache);
    all += (all.empty() ? "" : ", ") + namesOf(other->caches()) + " for " + other->name().str();
  }
  if (!known)
    return llvm::createStringError("unknown cache storage '" + options.cache + "': use " + all);
  return llvm::createStringError("the kernels for " + target.name() +
                                 " keep no keys and values in " + options.cache + ": use --cache " +
                                 namesOf(kept) +
                                 ", or leave it out, and each target takes its own default");
}

} // namespace moe
