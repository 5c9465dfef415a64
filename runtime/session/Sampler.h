// Chooses a token from logits, the same one for the same seed on every machine and device.
//
// A token's probability is an integer, so that sums are exact in any order: with m the largest
// logit and x = (logit - m) * scale in float32, scale = log2(e) / temperature, its weight is 2^36 *
// 2^x, rounded down, and 0 for x <= -37. 2^x is a polynomial of float32 products and sums, each
// rounded (weightOf in Sampler.cpp; compiler/kernels/sample/Cuda.cpp computes the same). A filter
// keeps a sum of weights, and of tokens with the same logit the lower ids; the token drawn is the
// first one, in the order of ids, with which the weights kept exceed floor(random * total / 2^64).
#ifndef MOE_RUNTIME_SESSION_SAMPLER_H
#define MOE_RUNTIME_SESSION_SAMPLER_H

#include "runtime/Status.h"
#include "runtime/device/RowSampling.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace moe {

struct LogitBias {
  int32_t token;
  double bias; // -100 to 100
};

// All apply in the order below, and at its default each does nothing. Bias and penalties come in
// the order of vLLM's V1 sampler, with OpenAI's formulas; each result is computed in double and
// rounded to float32. The filters come in the order of Hugging Face's `generate`.
struct SamplerOptions {
  std::vector<LogitBias> logitBias{}; // added to logits; at most kMaxLogitBias, of different tokens
  double repetitionPenalty = 1;       // > 0: logits of tokens of the prompt and generated ones are
                                      // divided, or if negative multiplied, by it
  double frequencyPenalty = 0; // -2 to 2: subtracted for each time that a token was generated
  double presencePenalty = 0;  // -2 to 2: subtracted once from each token that was generated
  double temperature = 0;      // 0: greedy, the largest logit, ties to the lower id
  int32_t topK = 0;            // only the k most likely; 0: all
  double topP = 1;             // in (0, 1]: the fewest most likely whose probabilities reach it
  double minP = 0;             // in [0, 1): only those at least this times as likely as the best
  uint64_t seed = 0;
};
inline constexpr size_t kMaxLogitBias = 1024;

// For one sequence. Memory is allocated by create alone. A copy goes on from the same state.
class Sampler {
public:
  // Memory that `sample` needs while it runs, some 20 bytes for each token of the vocabulary.
  // Samplers that are used one at a time may share it.
  class Workspace;
  static std::shared_ptr<Workspace> makeWorkspace(int64_t vocab);

  // Without a workspace it gets its own. Error: InvalidArgument with the option and its range, or
  // if the workspace is for another vocabulary.
  static Result<Sampler> create(const SamplerOptions &options, int64_t vocab,
                                std::shared_ptr<Workspace> workspace = nullptr);

  // Counts a token for the penalties: one of the prompt, which only the repetition penalty looks
  // at, or one that was generated. Ids outside of the vocabulary are ignored.
  void observePrompt(int32_t token);
  void observe(int32_t token);

  // Only tokens whose bit is set may be chosen: that of token i is bit i % 32 of word i / 32. Words
  // are read by each `sample` and must outlive their use; none ends it. Error: InvalidArgument if
  // there are not ceil(vocab / 32) words.
  Status setMask(std::span<const uint32_t> words);
  // These tokens are not chosen; read by each `sample` too. None ends it.
  void forbid(std::span<const int32_t> tokens) { forbidden = tokens; }

  // The next token; does not observe it. Logits of -inf are never chosen. Error: InvalidArgument if
  // a logit is NaN or +inf, or none is left that may be chosen; logits of tokens that are masked or
  // forbidden are not looked at.
  Result<int32_t> sample(std::span<const float> logits);

  // How a device that samples chooses the token that `sample` would return now. When it has,
  // `advance` takes the random number, as `sample` does. Nothing if only `sample` can: with a bias
  // or a penalty. A draw that is `masked` needs what writeMask gives.
  std::optional<Draw> draw() const;
  void advance();
  // The mask without the forbidden tokens, in setMask's form: ceil(vocab / 32) words.
  void writeMask(std::span<uint32_t> words) const;
  // The error that `sample` would return, of an id below zero that a device gave instead of a
  // token.
  Error errorOf(int32_t id) const;

  // As just created: forgets what was observed, mask and forbidden tokens, and starts the random
  // numbers anew.
  void reset();

private:
  // A token that was observed, and how often it was generated.
  struct Observed {
    int32_t token, generated;
  };

  bool changesLogits() const { return biased || penalizes() || restricts(); }
  bool restricts() const { return !mask.empty() || !forbidden.empty(); }
  bool penalizes() const { return !places.empty(); }
  Observed &observed(int32_t token);
  std::span<const float> changed(std::span<const float> logits);
  Result<int32_t> greedy(std::span<const float> logits) const;
  Status gather(std::span<const float> logits);
  Error nothingLeft() const;
  uint64_t nextRandom() const; // of the state after `random`

  SamplerOptions options;
  int64_t vocab = 0;
  bool biased = false;
  Draw parameters;              // of the options; `random` is set by each draw
  uint64_t random = 0;          // state of SplitMix64
  std::vector<Observed> tokens; // in the order in which they were observed first
  std::vector<int32_t> places;  // of each token in `tokens`, or -1; empty without a penalty
  std::span<const uint32_t> mask;
  std::span<const int32_t> forbidden;
  std::shared_ptr<Workspace> workspace;
};

} // namespace moe

#endif
