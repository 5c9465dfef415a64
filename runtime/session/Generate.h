// Text after a prompt: the loop of step, sample, decode and stop for one sequence.
#ifndef MOE_RUNTIME_SESSION_GENERATE_H
#define MOE_RUNTIME_SESSION_GENERATE_H

#include "runtime/session/NgramDrafter.h"
#include "runtime/session/Sampler.h"
#include "runtime/session/Session.h"
#include "runtime/text/Tokenizer.h"

namespace moe {

struct GenerateOptions {
  SamplerOptions sampling;
  int64_t maxTokens = -1;               // -1: until the context is full
  std::vector<int32_t> stopTokens;      // usually the plan's, see stopTokensOf
  std::vector<std::string> stopStrings; // need a tokenizer; are left out of the text
  bool skipSpecial = true;              // leave special tokens out of the text
  // Most guesses of tokens that a step may check (NgramDrafter.h, DraftCheck.h); 0: none. On CPUs
  // the tokens are the same with any number, elsewhere their distribution is.
  int32_t drafts = 0;
  DraftCost draftCost{}; // decides how many of them a step has
};

enum class FinishReason { StopToken, StopString, Length, Cancelled };
const char *finishReasonName(FinishReason reason); // "stop_token"

// A part of the answer as it comes. `text` is what is certain to be printed, often empty; the rest
// of the text comes with a last call that has token -1.
struct Piece {
  int32_t token;
  std::string_view text;
};

struct Generation {
  FinishReason reason = FinishReason::Length;
  std::string stopString;      // the one that was found
  std::vector<int32_t> tokens; // sampled, a stop token last if that ended it
  double prefillSeconds = 0;   // of the prompt, to its last logits
  double decodeSeconds = 0;    // of the steps after
  int64_t decodeSteps = 0;
  int64_t drafted = 0, accepted = 0; // guesses checked in those steps, and those that came true
};

// The ids that end a text: the plan's eos tokens.
std::vector<int32_t> stopTokensOf(const Plan &plan);

// Appends `prompt` to the sequence, then samples until a reason to finish. The last token sampled
// is not appended to the sequence: session.length says what is. `history` is what the sequence
// already has, for the repetition penalty. `tokenizer` may be null, there is no text then.
// `onPiece` returns an error to end the generation with it. Errors: ResourceExhausted when the
// prompt does not fit. Cancelled (Session::setCancel) is a reason to finish, not an error.
using OnPiece = std::function<Status(const Piece &)>;
Result<Generation> generate(Session &session, int32_t sequence, std::span<const int32_t> prompt,
                            const GenerateOptions &options, const Tokenizer *tokenizer,
                            const OnPiece &onPiece, std::span<const int32_t> history = {});

} // namespace moe

#endif
