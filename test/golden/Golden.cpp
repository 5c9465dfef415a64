// Reading golden files, running make-checkpoint.py and the compiler.
#include "test/golden/Golden.h"

#include "compiler/targets/cpu/CpuTarget.h"
#include "runtime/device/cpu/CpuFeatures.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Program.h"

#include <filesystem>
#include <map>
#include <tuple>

namespace moe::test {

static std::vector<int32_t> idsOf(const llvm::json::Array &array) {
  std::vector<int32_t> ids;
  for (const llvm::json::Value &id : array)
    ids.push_back(int32_t(id.getAsInteger().value()));
  return ids;
}

Golden Golden::open(const std::string &path) {
  auto file = llvm::MemoryBuffer::getFile(path);
  if (!file)
    throw std::runtime_error("cannot read " + path);
  llvm::json::Value value = valueOf(llvm::json::parse((*file)->getBuffer()));
  const llvm::json::Object &object = *value.getAsObject();
  Golden golden;
  golden.seed = uint64_t(object.getInteger("seed").value_or(0));
  golden.weights = object.getString("weights").value_or("").str();
  for (const llvm::json::Value &value : *object.getArray("prompts")) {
    const llvm::json::Object &entry = *value.getAsObject();
    GoldenPrompt &prompt = golden.prompts.emplace_back();
    prompt.ids = idsOf(*entry.getArray("ids"));
    for (int32_t position : idsOf(*entry.getArray("positions")))
      prompt.positions.push_back(position);
    for (const llvm::json::Value &row : *entry.getArray("logits")) {
      std::vector<float> &logits = prompt.logits.emplace_back();
      for (const llvm::json::Value &logit : *row.getAsArray())
        logits.push_back(float(logit.getAsNumber().value()));
    }
    prompt.argmax = idsOf(*entry.getArray("argmax"));
    prompt.greedy = idsOf(*entry.getArray("greedy"));
  }
  return golden;
}

std::vector<std::vector<int32_t>> Golden::texts() const {
  std::vector<std::vector<int32_t>> texts;
  for (const GoldenPrompt &prompt : prompts) {
    std::vector<int32_t> &text = texts.emplace_back(prompt.ids);
    text.insert(text.end(), prompt.greedy.begin(), prompt.greedy.end() - 1);
  }
  return texts;
}

std::string sourcePath(const std::string &path) { return std::string(MOE_SOURCE_DIR) + "/" + path; }

std::string caseFolder(const std::string &name) { return sourcePath("test/golden/" + name); }

std::vector<std::string> caseNames() {
  std::vector<std::string> names;
  for (const auto &entry : std::filesystem::directory_iterator(sourcePath("test/golden")))
    if (std::filesystem::exists(entry.path() / "config.json"))
      names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

const std::string &temporaryFolder() {
  struct Folder {
    std::string path;
    Folder() {
      llvm::SmallString<128> made;
      if (llvm::sys::fs::createUniqueDirectory("moe-golden", made))
        throw std::runtime_error("cannot make a temporary folder");
      path = made.str();
    }
    ~Folder() { (void)llvm::sys::fs::remove_directories(path); }
  };
  static Folder folder;
  return folder.path;
}

std::string makeCheckpoint(const std::vector<std::string> &arguments) {
  static std::map<std::vector<std::string>, std::string> made;
  if (auto found = made.find(arguments); found != made.end())
    return found->second;
  std::string folder = temporaryFolder() + "/checkpoint-" + std::to_string(made.size());
  std::string script = sourcePath("test/tools/make-checkpoint.py");
  std::vector<llvm::StringRef> command{MOE_PYTHON, script, "-o", folder};
  command.insert(command.end(), arguments.begin(), arguments.end());
  std::string error;
  if (llvm::sys::ExecuteAndWait(MOE_PYTHON, command, {}, {}, 0, 0, &error) != 0)
    throw std::runtime_error("make-checkpoint.py failed " + error);
  return made[arguments] = folder;
}

std::string caseCheckpoint(const std::string &name, const std::string &dtype,
                           const std::vector<std::string> &more) {
  std::string folder = caseFolder(name);
  uint64_t seed = Golden::open(folder + "/golden.json").seed;
  std::vector<std::string> arguments{folder + "/config.json", "--seed", std::to_string(seed),
                                     "--dtype", dtype};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return makeCheckpoint(arguments);
}

const std::vector<std::string> &hostTargets() {
#if defined(__x86_64__)
  static const std::vector<std::string> targets{"cpu:x86-64-v4-amx", "cpu:x86-64-v4",
                                                "cpu:x86-64-v3-vnni", "cpu:x86-64-v3"};
#else
  static const std::vector<std::string> targets{"cpu:armv8.6-a", "cpu:aarch64"};
#endif
  return targets;
}

bool canRun(const std::string &target) {
  const std::vector<std::string> host = cpu::hostFeatures();
  auto needed = codegen::cpuTarget(llvm::StringRef(target).substr(4));
  if (!needed)
    throw std::runtime_error(llvm::toString(needed.takeError()));
  return llvm::all_of(needed->required, [&](const std::string &feature) {
    return llvm::is_contained(host, feature);
  });
}

const std::vector<std::string> &runnableTargets() {
  static const std::vector<std::string> targets = [] {
    std::vector<std::string> some = hostTargets();
    std::erase_if(some, [](const std::string &target) { return !canRun(target); });
    return some;
  }();
  return targets;
}

const Plan &planOf(const std::string &input, const std::string &weights,
                   const std::vector<std::string> &targets, std::optional<uint64_t> randomSeed,
                   const std::string &cache, int64_t maxStep, bool embeddings, bool vision) {
  static std::map<std::tuple<std::string, std::string, std::vector<std::string>, bool, std::string,
                             int64_t, bool, bool>,
                  Plan>
      plans;
  auto key = std::make_tuple(input, weights, targets, randomSeed.has_value(), cache, maxStep,
                             embeddings, vision);
  if (auto found = plans.find(key); found != plans.end())
    return found->second;
  CompileOptions options;
  options.input = input;
  options.output = temporaryFolder() + "/" + std::to_string(plans.size()) + ".plan";
  options.targets = targets;
  options.weights = weights;
  options.randomSeed = randomSeed;
  options.cache = cache;
  options.maxStep = maxStep;
  options.embeddings = embeddings;
  options.assemblePtx = false;
  options.tokenizer = false;
  options.vision = vision;
  if (llvm::Error error = compile(options, llvm::outs(), {}))
    throw std::runtime_error(llvm::toString(std::move(error)));
  return plans.emplace(key, valueOf(Plan::open(options.output))).first->second;
}

} // namespace moe::test
