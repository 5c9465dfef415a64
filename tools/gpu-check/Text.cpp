// The text that a plan is checked with.
#include "compiler/Compiler.h"
#include "runtime/session/Session.h"
#include "tools/gpu-check/BundleWriter.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FileUtilities.h"
#include <algorithm>

using namespace llvm;

namespace moe::gpucheck {

static llvm::Error compileFor(const std::string &checkpoint, const std::string &target,
                              const std::string &plan) {
  CompileOptions options;
  options.input = checkpoint;
  options.output = plan;
  options.targets = {target};
  options.weights = "int4";
  options.layers = 4; // three with chunks and one without; all eight are more than a bundle holds
  options.tokenizer = false;
  options.assemblePtx = false; // the driver compiles it, and a bundle is small
  options.maxStep = 16;
  return compile(options, outs(), {});
}

static Status generate(const std::string &plan, int64_t count, fb::TextT &text) {
  MOE_ASSIGN(opened, Plan::open(plan));
  SessionOptions options;
  options.device = "cpu";
  options.context = int64_t(text.prompt.size()) + count;
  MOE_ASSIGN(session, Session::create(opened, options));
  MOE_ASSIGN(sequence, session.addSequence());
  std::vector<int32_t> next = text.prompt;
  for (int64_t i = 0; i < count; ++i) {
    MOE_ASSIGN(logits, session.append(sequence, next));
    text.logits.insert(text.logits.end(), logits.begin(), logits.end());
    std::vector<float> sorted(logits.begin(), logits.end());
    std::partial_sort(sorted.begin(), sorted.begin() + 2, sorted.end(), std::greater<>());
    text.margins.push_back(sorted[0] - sorted[1]);
    next = {int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin())};
    text.tokens.push_back(next[0]);
  }
  return ok();
}

llvm::Error addText(BundleWriter &writer, const std::string &checkpoint, const std::string &plan,
                    std::vector<int32_t> prompt, int64_t tokens) {
  if (auto failed = compileFor(checkpoint, writer.target().name, plan))
    return failed;
  SmallString<128> onCpu;
  if (sys::fs::createTemporaryFile("gpu-bundle", "plan", onCpu))
    return createStringError("cannot make a temporary file; set TMPDIR to a writable folder");
  FileRemover remove(onCpu);
  if (auto failed = compileFor(checkpoint, "cpu:native", onCpu.str().str()))
    return failed;
  fb::TextT text;
  text.prompt = std::move(prompt);
  if (auto status = generate(onCpu.str().str(), tokens, text); !status)
    return createStringError(status.error().message);
  writer.add(std::move(text));
  return llvm::Error::success();
}

} // namespace moe::gpucheck
