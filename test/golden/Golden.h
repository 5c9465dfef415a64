// What the golden tests share: golden files, and checkpoints and plans in a temporary folder.
//
// Where something cannot be made or read, these throw, which fails the test that asked.
#ifndef MOE_TEST_GOLDEN_GOLDEN_H
#define MOE_TEST_GOLDEN_GOLDEN_H

#include "compiler/Compiler.h"
#include "runtime/plan/Plan.h"

#include <stdexcept>

namespace moe::test {

template <typename T> T valueOf(Result<T> result) {
  if (!result)
    throw std::runtime_error(result.error().message);
  return std::move(*result);
}
template <typename T> T valueOf(llvm::Expected<T> result) {
  if (!result)
    throw std::runtime_error(llvm::toString(result.takeError()));
  return std::move(*result);
}

struct GoldenPrompt {
  std::vector<int32_t> ids;
  std::vector<int64_t> positions;
  std::vector<std::vector<float>> logits; // [positions, vocab]
  std::vector<int32_t> argmax;            // [ids]
  std::vector<int32_t> greedy;
};

// golden.json, see README.md.
struct Golden {
  uint64_t seed = 0;   // of a tiny model
  std::string weights; // of cria: the SHA-256 of model.safetensors
  std::vector<GoldenPrompt> prompts;

  static Golden open(const std::string &path);
  // Each prompt with all of its continuation but the last token.
  std::vector<std::vector<int32_t>> texts() const;
};

std::string sourcePath(const std::string &path); // of a file of the project
std::string caseFolder(const std::string &name); // of a tiny model
// The tiny models: the folders with a config.json, in the order of their names.
std::vector<std::string> caseNames();

// A folder that goes away with the process.
const std::string &temporaryFolder();

// Runs make-checkpoint.py; the folder it made, in the temporary one. One for all equal calls.
std::string makeCheckpoint(const std::vector<std::string> &arguments);
// The checkpoint of a tiny model, in the dtype "f32", "bf16" or "f16".
std::string caseCheckpoint(const std::string &name, const std::string &dtype,
                           const std::vector<std::string> &more = {});

// The targets that run on this architecture, best first: "cpu:x86-64-v4".
const std::vector<std::string> &hostTargets();
// Whether this processor has what the target asks for; those of the former that do.
bool canRun(const std::string &target);
const std::vector<std::string> &runnableTargets();

// Compiles without a tokenizer and cubins, and unless `vision` says so without pictures; `weights`
// is a recipe, as "f32" or "bf16". One plan for all equal calls.
const Plan &planOf(const std::string &input, const std::string &weights,
                   const std::vector<std::string> &targets = runnableTargets(),
                   std::optional<uint64_t> randomSeed = {}, const std::string &cache = {},
                   int64_t maxStep = 512, bool embeddings = false, bool vision = false);

} // namespace moe::test

#endif
