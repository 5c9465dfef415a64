// Stop strings and detokenization happen between sampling and the caller, so that what is streamed
// is exactly the final text.
#include "runtime/session/Generate.h"

#include "runtime/session/RequestText.h"

#include <algorithm>
#include <chrono>

namespace moe {
namespace {

using Clock = std::chrono::steady_clock;

double secondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

} // namespace

const char *finishReasonName(FinishReason reason) {
  switch (reason) {
  case FinishReason::StopToken:
    return "stop_token";
  case FinishReason::StopString:
    return "stop_string";
  case FinishReason::Length:
    return "length";
  case FinishReason::Cancelled:
    return "cancelled";
  }
  return "";
}

std::vector<int32_t> stopTokensOf(const Plan &plan) {
  const auto *tokens = plan.index().model()->eos_tokens();
  return tokens ? std::vector<int32_t>(tokens->begin(), tokens->end()) : std::vector<int32_t>();
}

Result<Generation> generate(Session &session, int32_t sequence, std::span<const int32_t> prompt,
                            const GenerateOptions &options, const Tokenizer *tokenizer,
                            const OnPiece &onPiece, std::span<const int32_t> history) {
  if (prompt.empty())
    return Error{Code::InvalidArgument, "the prompt has no tokens"};
  int64_t total = session.length(sequence) + int64_t(prompt.size());
  if (total > session.context())
    return Error{Code::ResourceExhausted,
                 "the prompt has " + std::to_string(prompt.size()) + " tokens" +
                     (session.length(sequence)
                          ? " after " + std::to_string(session.length(sequence)) + " before it"
                          : "") +
                     ", the context has room for " + std::to_string(session.context()) +
                     "; ask for more with --context"};
  MOE_ASSIGN(sampler, Sampler::create(options.sampling, session.vocab()));
  for (std::span<const int32_t> tokens : {history, prompt})
    for (int32_t token : tokens)
      sampler.observePrompt(token);

  Generation result;
  RequestText text(tokenizer,
                   {.stopStrings = options.stopStrings, .skipSpecial = options.skipSpecial});
  auto finish = [&](FinishReason reason) -> Result<Generation> {
    result.reason = reason;
    std::string rest = text.finish();
    if (text.match()) { // the end of a character may complete a stop string
      result.reason = FinishReason::StopString;
      result.stopString = *text.match();
    }
    if (!rest.empty())
      MOE_TRY(onPiece({-1, rest}));
    return std::move(result);
  };

  auto start = Clock::now();
  Result<int32_t> next = 0;
  if (options.maxTokens == 0) { // nothing to choose
    if (auto logits = session.append(sequence, prompt); !logits)
      next = logits.error();
  } else {
    next = session.sample(sequence, prompt, sampler);
  }
  result.prefillSeconds = secondsSince(start);
  while (true) {
    if (!next && next.error().code == Code::Cancelled)
      return finish(FinishReason::Cancelled);
    if (!next)
      return next.error();
    if (options.maxTokens == 0)
      return finish(FinishReason::Length);
    const int32_t token = *next;
    sampler.observe(token);
    result.tokens.push_back(token);
    bool stop = std::find(options.stopTokens.begin(), options.stopTokens.end(), token) !=
                options.stopTokens.end();
    if (stop)
      return finish(FinishReason::StopToken);
    std::string certain = text.push(token);
    MOE_TRY(onPiece({token, certain}));
    if (text.match())
      return finish(FinishReason::StopString);
    // After the step of the last position one more token can be told, but not fed.
    if (session.length(sequence) >= session.context() ||
        (options.maxTokens >= 0 && int64_t(result.tokens.size()) >= options.maxTokens))
      return finish(FinishReason::Length);
    start = Clock::now();
    next = session.sample(sequence, {&token, 1}, sampler);
    if (next) {
      result.decodeSeconds += secondsSince(start);
      ++result.decodeSteps;
    }
  }
}

} // namespace moe
