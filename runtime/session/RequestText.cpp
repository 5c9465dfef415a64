#include "runtime/session/RequestText.h"

#include <utility>

namespace moe {

RequestText::RequestText(const Tokenizer *tokenizer, RequestTextOptions options)
    : stops(std::move(options.stopStrings)), includeStop(options.includeStop),
      unchecked(options.minTokens) {
  if (tokenizer)
    detokenizer.emplace(*tokenizer, options.skipSpecial, std::move(options.shown));
}

// What is left of `text` when the stop strings have seen it.
std::string RequestText::stopped(std::string text) {
  if (match())
    return {};
  std::string certain = stops.push(text);
  if (match() && includeStop)
    certain += *match();
  return certain;
}

std::string RequestText::push(int32_t token) {
  if (!detokenizer)
    return {};
  std::string text = detokenizer->push(token);
  if (unchecked > 0) {
    --unchecked;
    return text;
  }
  return stopped(std::move(text));
}

std::string RequestText::finish() {
  if (!detokenizer)
    return {};
  std::string text = detokenizer->flush();
  if (unchecked > 0)
    return text;
  text = stopped(std::move(text));
  return match() ? text : text + stops.flush();
}

} // namespace moe
