// How likely the model itself holds tokens: logarithms of probabilities, from logits as they are.
#ifndef MOE_RUNTIME_SESSION_LOGPROBS_H
#define MOE_RUNTIME_SESSION_LOGPROBS_H

#include "runtime/Status.h"

#include <cstdint>
#include <span>
#include <vector>

namespace moe {

struct TokenLogprob {
  int32_t token;
  float logprob; // natural; -inf where the logit is
};

// The logprob of `token`, and in `likely` the `most` most likely tokens, most likely first, ties to
// the lower id; fewer where the vocabulary has fewer. Before bias, penalties, temperature and
// filters. Sums are of float64, in the order of ids. Allocates nothing if `likely` has the
// capacity. Error: InvalidArgument if the token is not one of the logits, `most` is negative, or
// the logits are no distribution: one is NaN or +inf, or all are -inf.
Result<float> logprobs(std::span<const float> logits, int32_t token, int32_t most,
                       std::vector<TokenLogprob> &likely);

} // namespace moe

#endif
