// The order of what ends an answer: its stop token, its text, its grammar, its length.
#include "runtime/server/Choice.h"

#include <algorithm>

namespace moe::server {
namespace {

bool contains(const std::vector<int32_t> &tokens, int32_t token) {
  return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
}

RequestTextOptions textOptions(const Request &request) {
  RequestTextOptions options;
  options.stopStrings = request.stopStrings;
  options.includeStop = request.includeStop;
  options.minTokens = request.minTokens;
  options.skipSpecial = request.skipSpecial;
  options.shown = request.shown;
  return options;
}

} // namespace

Choice::Choice(const Request &request, int32_t index, const ChoiceContext &context, Sampler sampler)
    : request(&request), index(index), vocab(context.vocab), ids(request.prompt),
      sampling(std::move(sampler)), text(context.tokenizer, textOptions(request)) {
  // After the step of the last position one more token can be told, but not fed.
  longest = context.context + 1;
  if (request.maxTokens >= 0)
    longest = std::min(longest, int64_t(ids.size()) + request.maxTokens);
  for (int32_t token : ids)
    sampling->observePrompt(token);
  if (request.grammar) {
    grammar = request.grammar->start();
    mask.resize(size_t(vocab + 31) / 32);
  }
  event.choice = index;
}

Result<Choice> Choice::create(const Request &request, int32_t index, const ChoiceContext &context) {
  SamplerOptions options = request.sampling;
  options.seed += uint64_t(index);
  MOE_ASSIGN(sampler, Sampler::create(options, context.vocab, context.workspace));
  return Choice(request, index, context, std::move(sampler));
}

void Choice::prepare() {
  const bool early = generated() < request->minTokens;
  sampling->forbid(early ? std::span<const int32_t>(request->stopTokens)
                         : std::span<const int32_t>());
  if (!grammar)
    return;
  if (grammar->finished())
    return end(Finish::Grammar);
  grammar->fillMask(mask);
  const Status set = sampling->setMask(mask);
  assert(set); // it has the sampler's size
  (void)set;
  if (!early)
    return;
  // Where the grammar allows the end alone, more tokens cannot be had.
  std::vector<uint32_t> others = mask;
  for (int32_t token : request->stopTokens)
    if (token >= 0 && token < vocab)
      others[size_t(token) / 32] &= ~(uint32_t(1) << token % 32);
  if (std::all_of(others.begin(), others.end(), [](uint32_t word) { return word == 0; }))
    end(Finish::Grammar);
}

Result<TokenEvent> Choice::choose(std::span<const float> logits) {
  TokenEvent token;
  MOE_ASSIGN(id, sampling->sample(logits));
  token.token = id;
  if (request->logprobs) {
    MOE_ASSIGN(logprob, logprobs(logits, id, *request->logprobs, token.likely));
    token.logprob = logprob;
  }
  return token;
}

void Choice::append(TokenEvent token) {
  const int32_t id = token.token;
  ids.push_back(id);
  sampling->observe(id);
  event.tokens.push_back(std::move(token));
  if (contains(request->stopTokens, id))
    return end(Finish::StopToken);
  const std::string certain = text.push(id);
  event.text += certain;
  event.tokens.back().textBytes = certain.size();
  if (grammar && !grammar->accept(id))
    return end(Finish::Failed,
               "token " + std::to_string(id) + " is not one that the grammar allows");
  if (text.match())
    return end(Finish::StopString);
  if (grammar && grammar->finished())
    return end(Finish::Grammar);
  if (int64_t(ids.size()) >= longest)
    end(Finish::Length);
}

void Choice::end(Finish finish, std::string error) {
  assert(!finished);
  const std::string rest = text.finish();
  event.text += rest;
  if (!event.tokens.empty())
    event.tokens.back().textBytes += rest.size();
  // The end of a character may complete a stop string.
  const bool completed =
      finish == Finish::StopToken || finish == Finish::Grammar || finish == Finish::Length;
  if (text.match() && (completed || finish == Finish::StopString)) {
    finish = Finish::StopString;
    event.stopString = *text.match();
  }
  finished = finish;
  event.finish = finish;
  event.error = std::move(error);
}

Event Choice::takeEvent() {
  Event taken = std::move(event);
  event = {};
  event.choice = index;
  return taken;
}

} // namespace moe::server
