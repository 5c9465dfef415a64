// Hands everything that goes into a plan to its writer.
#include "compiler/Compilation.h"
#include "compiler/Provenance.h"

using namespace mlir;

namespace moe {

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
  format.tools = chat.tools;
  for (int32_t token : eosTokens)
    if (!llvm::is_contained(format.stop_tokens, token))
      format.stop_tokens.push_back(token);
  return format;
}

static fb::SamplingT toPlan(const SamplingDefaults &defaults) {
  fb::SamplingT sampling;
  sampling.temperature = defaults.temperature;
  sampling.top_k = uint32_t(defaults.topK);
  sampling.top_p = defaults.topP;
  sampling.repetition_penalty = defaults.repetitionPenalty;
  return sampling;
}

llvm::Error Compilation::writeFile() {
  PlanInputs inputs;
  inputs.module = *plan;
  for (const auto &[target, model] : llvm::zip(targets, models))
    inputs.models[target->name()] = *model;
  for (const std::unique_ptr<Target> &target : targets)
    for (size_t version = 0; version < target->versions(); ++version) {
      if (cancelled())
        return llvm::createStringError(std::errc::operation_canceled, "interrupted");
      auto image = target->image(version);
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
  if (config.sampling)
    inputs.sampling = toPlan(*config.sampling);
  auto command = shapingOptions(options);
  if (!command)
    return command.takeError();
  inputs.provenance.command = *command;
  inputs.provenance.ignored = ignored;
  inputs.tensors = tensors.get();
  inputs.packing.allowNonFinite = options.allowNonFinite;
  inputs.jobs = options.jobs;
  PackingFigures figures;
  if (auto error = writePlan(inputs, options.output, events.progress, events.cancel, &figures))
    return error;
  if (events.packed)
    events.packed({figures.bytesRead, figures.threads, figures.seconds,
                   figures.busySeconds / (figures.seconds * figures.threads)});
  return llvm::Error::success();
}

} // namespace moe
