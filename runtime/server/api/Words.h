// What the forms of answers share: reasons, usage and probabilities of tokens as JSON.
#ifndef MOE_RUNTIME_SERVER_API_WORDS_H
#define MOE_RUNTIME_SERVER_API_WORDS_H

#include "runtime/server/api/Answer.h"
#include "runtime/server/api/JsonText.h"

namespace moe::server::api {

// OpenAI's: "stop", "length", "tool_calls".
const char *finishReason(const Update &update);
// vLLM's `stop_reason`: the stop string or token, or null.
void writeStopReason(JsonWriter &json, const Update &update);

// {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"}
void writeUsage(JsonWriter &json, const Totals &totals);

// Ends a chunk of OpenAI's streams that is not the last: with the usage so far (`continuous`), with
// null where it comes later (`include`), or without.
void endChunk(std::string &out, bool include, bool continuous, const Totals &totals);

// A logarithm as JSON has it: it has no infinity.
double finite(double logprob);

// The text of a token by itself, valid UTF-8 whatever it is.
std::string tokenText(const Tokenizer *tokenizer, int32_t token);

// Chat's: [{"token", "logprob", "bytes", "top_logprobs"}]
void writeLogprobs(JsonWriter &json, const Tokenizer *tokenizer,
                   std::span<const TokenEvent> tokens);
// vLLM's: for each token of the prompt null or {"id": {"logprob", "decoded_token"}}.
void writePromptLogprobs(JsonWriter &json, const Tokenizer *tokenizer,
                         std::span<const TokenEvent> tokens);

} // namespace moe::server::api

#endif
