// A plan's tokenizer, chat format and sampling, ready to use.
#ifndef MOE_RUNTIME_SESSION_PLANTEXT_H
#define MOE_RUNTIME_SESSION_PLANTEXT_H

#include "runtime/plan/Plan.h"
#include "runtime/session/Sampler.h"
#include "runtime/text/ChatTemplate.h"

#include <optional>

namespace moe {

// Nothing if the plan takes ids only. The plan must outlive the tokenizer.
Result<std::optional<Tokenizer>> planTokenizer(const Plan &plan);

// Nothing if the plan has no chat format.
std::optional<ChatFormat> planChatFormat(const Plan &plan);

// How the checkpoint samples where nobody says otherwise. Nothing if it does not say.
std::optional<SamplerOptions> planSampling(const Plan &plan);

} // namespace moe

#endif
