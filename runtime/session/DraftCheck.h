// Chooses tokens from the rows of a step that has guesses of them: drafts.
//
// The step appends [the last token, drafts...] to a sequence, tentative, and wants a row for each.
// A row is the model's distribution after the tokens up to its own, so it counts as long as the
// drafts up to there are what the sampler chose. Each token is sampled from the model's own
// distribution with the random number that it would have without drafts: the distribution is the
// same, and where a row's bits do not depend on the step's other tokens, as on CPUs, so are the
// tokens.
#ifndef MOE_RUNTIME_SESSION_DRAFTCHECK_H
#define MOE_RUNTIME_SESSION_DRAFTCHECK_H

#include "runtime/session/Sampler.h"

namespace moe {

class DraftCheck {
public:
  // Allocates for steps of up to `most` drafts.
  explicit DraftCheck(size_t most) { tokens.reserve(most + 1); }

  // A step begins. The sampler and the drafts, at most `most`, must outlive it.
  void start(Sampler &sampler, std::span<const int32_t> drafts);

  // The next row, in order: samples and observes its token, if the row counts. The sampler's mask
  // and forbidden tokens are to be those of that token. Error: the sampler's.
  Status row(std::span<const float> logits);
  // Whether the next row counts: a draft, or the start of the step, was what came before it.
  bool counts() const { return open; }
  // No further row counts: the last token ends the text.
  void close() { open = false; }

  // What was chosen: drafts, and one token after them. The sequence is to keep one token of the
  // step for each, `truncate(sequence, length before the step + chosen().size())`; the last one
  // chosen is not fed yet.
  std::span<const int32_t> chosen() const { return tokens; }
  // Drafts among them.
  size_t accepted() const { return tokens.empty() ? 0 : tokens.size() - 1; }

private:
  Sampler *sampler = nullptr;
  std::span<const int32_t> drafts;
  std::vector<int32_t> tokens;
  bool open = false;
};

} // namespace moe

#endif
