// Chooses a token from logits, the same one for the same seed on every machine.
#ifndef MOE_RUNTIME_SESSION_SAMPLER_H
#define MOE_RUNTIME_SESSION_SAMPLER_H

#include "runtime/Status.h"

#include <cstdint>
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

  // As just created: forgets what was observed and starts the random numbers anew.
  void reset();

private:
  struct Candidate {
    double logit; // later the probability, times a constant
    int32_t token;
  };
  // Most likely first, ties to the lower id: a total order, so sorting gives one result anywhere.
  static bool before(const Candidate &a, const Candidate &b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  }

  Result<int32_t> greedy(std::span<const float> logits) const;
  Status gather(std::span<const float> logits);
  Result<double> penalized(std::span<const float> logits, size_t token) const;
  double uniform(); // in [0, 1)

  SamplerOptions options;
  uint64_t random = 0;       // state of SplitMix64
  std::vector<uint8_t> seen; // per token; empty without a penalty
  std::vector<Candidate> candidates;
};

} // namespace moe

#endif
