// Written anew out of the options, since a command line tells the same in many ways.
#include "compiler/Provenance.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/xxhash.h"

namespace moe {

static llvm::Expected<std::string> nameOfContents(llvm::StringRef path) {
  auto file = llvm::MemoryBuffer::getFile(path, /*IsText=*/false,
                                          /*RequiresNullTerminator=*/false);
  if (!file)
    return llvm::createStringError("cannot read '" + path + "': " + file.getError().message());
  return "xxh3:" + llvm::utohexstr(llvm::xxh3_64bits((*file)->getBuffer()), /*LowerCase=*/true,
                                   /*Width=*/16);
}

llvm::Expected<std::string> shapingOptions(const CompileOptions &options) {
  const CompileOptions defaults;
  std::vector<std::string> words;
  auto add = [&](const char *option, const auto &value) {
    words.push_back(llvm::formatv("{0} {1}", option, value));
  };
  for (const std::string &target : options.targets)
    add("--target", target);
  if (options.weights != defaults.weights)
    add("--weights", options.weights);
  if (!options.cache.empty())
    add("--cache", options.cache);
  if (options.randomSeed)
    add("--random-weights", *options.randomSeed);
  if (options.layers)
    add("--layers", *options.layers);
  for (const std::string &folder : options.lora) {
    std::string names;
    for (const char *file : {"adapter_config.json", "adapter_model.safetensors"}) {
      llvm::SmallString<128> path(folder);
      llvm::sys::path::append(path, file);
      auto name = nameOfContents(path);
      if (!name)
        return name.takeError();
      names += (names.empty() ? "" : ",") + *name;
    }
    add("--lora", names);
  }
  if (!options.calibrate.empty()) {
    auto name = nameOfContents(options.calibrate);
    if (!name)
      return name.takeError();
    add("--calibrate", *name);
    if (options.calibrationTokens != defaults.calibrationTokens)
      add("--calibrate-tokens", options.calibrationTokens);
  }
  if (!options.vision)
    words.push_back("--no-vision");
  if (options.embeddings)
    words.push_back("--embeddings");
  if (!options.tokenizer)
    words.push_back("--no-tokenizer");
  if (!options.tools.empty())
    add("--tools", options.tools);
  if (options.maxStep != defaults.maxStep)
    add("--max-step", options.maxStep);
  if (options.allowNonFinite)
    words.push_back("--allow-nonfinite");
  if (!options.assemblePtx)
    words.push_back("--no-ptxas");
  return llvm::join(words, " ");
}

} // namespace moe
