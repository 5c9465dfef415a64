// What a client asks of an engine, in ids, and what comes back of it. Knows no HTTP and no JSON.
#ifndef MOE_RUNTIME_SERVER_REQUEST_H
#define MOE_RUNTIME_SERVER_REQUEST_H

#include "runtime/server/Grammar.h"
#include "runtime/session/Logprobs.h"
#include "runtime/session/Sampler.h"

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace moe::server {

using Clock = std::chrono::steady_clock;

struct Request {
  std::vector<int32_t> prompt; // at least one id, all below the vocabulary
  SamplerOptions sampling;     // choice i draws with seed + i
  int64_t maxTokens = -1;      // of each choice; -1: until the context is full
  int64_t minTokens = 0;       // before these no stop token is chosen
  int32_t choices = 1;         // answers to the one prompt
  std::vector<int32_t> stopTokens;
  std::vector<std::string> stopStrings;  // need an engine with a tokenizer
  bool includeStop = false;              // the stop string in the text
  bool skipSpecial = true;               // special tokens out of the text,
  std::vector<int32_t> shown;            // but for these
  std::optional<int32_t> logprobs;       // of how many likely tokens beside the chosen one, 0 to 20
  std::optional<int32_t> promptLogprobs; // the same of the prompt's tokens, from the second on
  std::shared_ptr<const CompiledGrammar> grammar; // null: any text
  int32_t priority = 0;                           // lower first
  std::string key;                                // whose it is, for fairness; empty: nobody's
  uint64_t salt = 0;                              // prefixes are shared among requests of one salt
  std::optional<Clock::time_point> deadline;
  bool embed = false; // no text: hidden states of the prompt, see Event::embedding
};

struct TokenEvent {
  int32_t token;
  size_t textBytes = 0; // of Event::text that came with it
  // Where the request asks for it: of the model's own distribution, before penalties, temperature.
  std::optional<float> logprob{};
  std::vector<TokenLogprob> likely{}; // most likely first
};

enum class Finish {
  StopToken,
  StopString,
  Length,
  Grammar, // which allows nothing more
  Cancelled,
  Deadline,      // the request's own
  QueueDeadline, // EngineLimits::maxQueue: it was never begun
  Failed,
};
inline constexpr size_t kFinishes = size_t(Finish::Failed) + 1;
const char *finishName(Finish finish); // "stop_token"

struct Event {
  int32_t choice = 0;
  std::vector<TokenEvent> tokens; // new ones, the stop token as well
  std::string text;               // certain to be printed, whole characters
  std::optional<Finish> finish;   // the choice's last event
  std::string stopString;         // with Finish::StopString
  std::string error;              // with Failed, Deadline and QueueDeadline, for the client
  // With the first tokens of choice 0, or its finish where there are none to be chosen:
  int64_t cachedTokens = -1;      // of the prompt, that a prefix gave; -1: not this event
  std::vector<TokenEvent> prompt; // where promptLogprobs asks for it; of the first id no logprob
  std::vector<std::vector<float>> embedding; // [mean, last token], of `embed`, of length 1
};

// Takes the events of one request, each choice's in order. Called where Engine's `deliver` says.
class EventSink {
public:
  virtual ~EventSink() = default;
  virtual void onEvent(Event event) = 0;
};

using RequestId = uint64_t;

} // namespace moe::server

#endif
