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
#include <optional>
#include <span>
#include <vector>

namespace moe {

// The filters apply in the order below, as in Hugging Face's `generate`; a filter at its default
// does nothing.
struct SamplerOptions {
  double repetitionPenalty = 1; // > 0: logits of tokens seen before are divided, or if negative
                                // multiplied, by it
  double temperature = 0;       // 0: greedy, the largest logit, ties to the lower id
  int32_t topK = 0;             // only the k most likely; 0: all
  double topP = 1;              // in (0, 1]: the fewest most likely whose probabilities reach it
  double minP = 0;              // in [0, 1): only those at least this times as likely as the best
  uint64_t seed = 0;
};

// For one sequence. Memory is allocated by create alone.
class Sampler {
public:
  // Error: InvalidArgument with the option and its range.
  static Result<Sampler> create(const SamplerOptions &options, int64_t vocab);

  // Counts a token of the prompt, or one that was sampled, for the repetition penalty.
  void observe(int32_t token);

  // The next token; does not observe it. Logits of -inf are never chosen. Error: InvalidArgument if
  // a logit is NaN or +inf, or all are -inf.
  Result<int32_t> sample(std::span<const float> logits);

  // How a device that samples chooses the token that sample would return now. When it has, advance
  // takes the random number, as sample does. Nothing if only sample can: with a repetition penalty.
  std::optional<Draw> draw() const;
  void advance();
  // The error that sample would return, of an id below zero that a device gave instead of a token.
  static Error errorOf(int32_t id);

  // As just created: forgets what was observed and starts the random numbers anew.
  void reset();

private:
  struct Candidate {
    float logit;
    int32_t token;
    uint64_t weight;
  };
  // Most likely first, ties to the lower id: a total order, so sorting gives one result anywhere.
  static bool before(const Candidate &a, const Candidate &b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  }

  Result<int32_t> greedy(std::span<const float> logits) const;
  Status gather(std::span<const float> logits);
  Result<float> penalized(std::span<const float> logits, size_t token) const;
  uint64_t nextRandom() const; // of the state after `random`

  SamplerOptions options;
  Draw parameters;           // of the options; `random` is set by each draw
  uint64_t random = 0;       // state of SplitMix64
  std::vector<uint8_t> seen; // per token; empty without a penalty
  std::vector<Candidate> candidates;
};

} // namespace moe

#endif
