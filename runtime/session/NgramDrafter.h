// Guesses the tokens that come next from what followed the same tokens earlier in the text.
//
// The text's last tokens are looked up among those before: of the kCandidates latest places where
// its last kLeastMatch tokens stand, the one that agrees over the most tokens, of equals the
// latest. What followed there is the guess; past the end of the text it goes on with itself.
// Whether a guess is worth a row of a step depends on how often guesses after matches of that
// length came true, which is counted for every token of the output, guessed or not: a text that
// does not repeat itself costs look-ups alone.
#ifndef MOE_RUNTIME_SESSION_NGRAMDRAFTER_H
#define MOE_RUNTIME_SESSION_NGRAMDRAFTER_H

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace moe {

// What drafts add to the time of a step of one token, as a part of it: the first of them `step`
// besides, since more than one token takes other ways through the kernels, and each `row`. The
// defaults are between what two models take on CPUs: a step of 2 tokens 1.8 to 2.0 times that of
// one, of 4 2.2 to 3.0, of 8 3.6 to 4.7, of 16 6.6 to 8.3.
struct DraftCost {
  double step = 0.5, row = 0.4;
};

// For one sequence. Deterministic: the same tokens give the same guesses. Memory grows with the
// text, some 16 to 24 bytes for each token, and time per token does not.
class NgramDrafter {
public:
  static constexpr int32_t kLeastMatch = 3, kMostMatch = 16, kCandidates = 16;

  NgramDrafter() { reset(); }

  // Tokens of the prompt: looked up in, but nothing is learned from them.
  void addPrompt(std::span<const int32_t> tokens);
  // The next token of the output.
  void add(int32_t token);

  // Guesses of the tokens that follow, in as many of `drafts` as give the most tokens in a time,
  // often none: their count. What is behind them in `drafts` is undefined. Costs are constants,
  // since a measure of the moment would choose other steps each time, and with them other tokens on
  // GPUs.
  size_t propose(std::span<int32_t> drafts, const DraftCost &cost = {}) const;

  // As just created.
  void reset();

private:
  // Guesses after matches of some lengths: how many came true. Old ones count less and less.
  struct Outcome {
    double right, all;
    double chance() const { return right / all; }
  };
  static size_t classOf(int32_t match);

  void append(int32_t token);
  size_t slotOf(int32_t end) const;
  void enter(int32_t end);
  void findMatch();

  std::vector<int32_t> text;
  // Of the last kLeastMatch tokens before position i + 1: the latest place before i where they
  // stand too, by its last position; -1: none.
  std::vector<int32_t> previous;
  // The latest place of each such n-gram, by hash with linear probing, or -1. At most half full.
  std::vector<int32_t> latest;
  int32_t next = -1; // position of the guess for the token that comes; -1: none
  int32_t match = 0; // tokens before it that agree with the text's end, at most kMostMatch
  std::array<Outcome, 5> outcomes;
};

} // namespace moe

#endif
