// From the FlatBuffer's tables to the types of runtime/text, field by field.
#include "runtime/session/PlanText.h"

namespace moe {
namespace {

std::string textOf(const flatbuffers::String *string) {
  return string ? string->str() : std::string();
}

} // namespace

Result<std::optional<Tokenizer>> planTokenizer(const Plan &plan) {
  const fb::Tokenizer *from = plan.index().tokenizer();
  if (!from)
    return std::optional<Tokenizer>();
  TokenizerSettings settings;
  settings.vocabSize = from->vocab_size();
  settings.ignoreMerges = from->ignore_merges();
  settings.addBos = from->add_bos();
  settings.bos = plan.index().model()->bos_token();
  if (from->special_tokens())
    for (const fb::SpecialToken *token : *from->special_tokens())
      settings.specials.push_back(
          {textOf(token->content()), int32_t(token->id()), token->special()});
  MOE_ASSIGN(tokenizer, Tokenizer::create(plan.section(from->section()), std::move(settings)));
  return std::optional<Tokenizer>(std::move(tokenizer));
}

std::optional<ChatFormat> planChatFormat(const Plan &plan) {
  const fb::ChatFormat *from = plan.index().chat();
  if (!from)
    return std::nullopt;
  ChatFormat format{textOf(from->bos()),        textOf(from->header_start()),
                    textOf(from->header_end()), textOf(from->turn_end()),
                    textOf(from->user()),       textOf(from->assistant()),
                    textOf(from->system()),     {},
                    textOf(from->tools())};
  if (from->stop_tokens())
    format.stopTokens.assign(from->stop_tokens()->begin(), from->stop_tokens()->end());
  return format;
}

std::optional<SamplerOptions> planSampling(const Plan &plan) {
  const fb::Sampling *from = plan.index().sampling();
  if (!from)
    return std::nullopt;
  SamplerOptions sampling;
  sampling.temperature = from->temperature();
  sampling.topK = int32_t(from->top_k());
  sampling.topP = from->top_p();
  sampling.repetitionPenalty = from->repetition_penalty();
  return sampling;
}

} // namespace moe
