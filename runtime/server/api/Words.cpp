#include "runtime/server/api/Words.h"

#include "runtime/text/Utf8.h"

#include <algorithm>
#include <cmath>

namespace moe::server::api {
namespace {

// The members that a token and each of those beside it have.
void writeToken(JsonWriter &json, const Tokenizer *tokenizer, int32_t token, double logprob) {
  const std::string_view bytes = tokenizer ? tokenizer->bytes(token) : std::string_view();
  json.member("token", tokenText(tokenizer, token)).member("logprob", finite(logprob));
  json.key("bytes").beginArray();
  for (const char byte : bytes)
    json.value(int(uint8_t(byte)));
  json.endArray();
}

} // namespace

const char *finishReason(const Update &update) {
  if (update.finish == Finish::Length)
    return "length";
  return update.calls ? "tool_calls" : "stop";
}

void writeStopReason(JsonWriter &json, const Update &update) {
  if (update.finish == Finish::StopString)
    json.value(update.stopString);
  else if (update.stopToken >= 0)
    json.value(update.stopToken);
  else
    json.value(nullptr);
}

void writeUsage(JsonWriter &json, const Totals &totals) {
  json.beginObject();
  json.member("prompt_tokens", totals.prompt);
  json.member("completion_tokens", totals.completion);
  json.member("total_tokens", totals.prompt + totals.completion);
  json.key("prompt_tokens_details").beginObject();
  json.member("cached_tokens", totals.cached);
  json.endObject().endObject();
}

void endChunk(std::string &out, bool include, bool continuous, const Totals &totals) {
  if (continuous) {
    out += ",\"usage\":";
    JsonWriter json(out);
    writeUsage(json, totals);
  } else if (include) {
    out += ",\"usage\":null";
  }
  out += "}\n\n";
}

double finite(double logprob) { return std::isfinite(logprob) ? logprob : -9999; }

std::string tokenText(const Tokenizer *tokenizer, int32_t token) {
  return tokenizer ? replaceInvalidUtf8(tokenizer->bytes(token)) : std::string();
}

void writeLogprobs(JsonWriter &json, const Tokenizer *tokenizer,
                   std::span<const TokenEvent> tokens) {
  json.beginArray();
  for (const TokenEvent &token : tokens) {
    json.beginObject();
    writeToken(json, tokenizer, token.token, token.logprob.value_or(-INFINITY));
    json.key("top_logprobs").beginArray();
    for (const TokenLogprob &likely : token.likely) {
      json.beginObject();
      writeToken(json, tokenizer, likely.token, likely.logprob);
      json.endObject();
    }
    json.endArray().endObject();
  }
  json.endArray();
}

void writePromptLogprobs(JsonWriter &json, const Tokenizer *tokenizer,
                         std::span<const TokenEvent> tokens) {
  json.beginArray();
  for (const TokenEvent &token : tokens) {
    if (!token.logprob) {
      json.value(nullptr);
      continue;
    }
    json.beginObject();
    const auto write = [&](int32_t id, double logprob) {
      json.key(std::to_string(id)).beginObject();
      json.member("logprob", finite(logprob));
      json.member("decoded_token", tokenText(tokenizer, id)).endObject();
    };
    write(token.token, *token.logprob);
    for (const TokenLogprob &likely : token.likely)
      if (likely.token != token.token)
        write(likely.token, likely.logprob);
    json.endObject();
  }
  json.endArray();
}

} // namespace moe::server::api
