#include "runtime/session/Logprobs.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace moe {

Result<float> logprobs(std::span<const float> logits, int32_t token, int32_t most,
                       std::vector<TokenLogprob> &likely) {
  if (token < 0 || size_t(token) >= logits.size())
    return Error{Code::InvalidArgument, "there is no logit of token " + std::to_string(token) +
                                            " among " + std::to_string(logits.size())};
  if (most < 0)
    return Error{Code::InvalidArgument,
                 "logprobs of " + std::to_string(most) + " likely tokens were asked for"};
  const size_t wanted = std::min(size_t(most), logits.size());

  // The likely ones by insertion: `wanted` is small, and most logits are below the last of them.
  likely.clear();
  float largest = -HUGE_VALF;
  size_t first = 0; // of the largest
  for (size_t i = 0; i < logits.size(); ++i) {
    const float logit = logits[i];
    if (!(logit < HUGE_VALF))
      return Error{Code::InvalidArgument,
                   "the logit of token " + std::to_string(i) + " is not a finite number"};
    if (logit > largest)
      largest = logit, first = i;
    if (wanted == 0 || (likely.size() == wanted && logit <= likely.back().logprob))
      continue;
    if (likely.size() == wanted)
      likely.pop_back();
    const auto place = std::upper_bound(
        likely.begin(), likely.end(), logit,
        [](float value, const TokenLogprob &other) { return value > other.logprob; });
    likely.insert(place, {int32_t(i), logit});
  }
  if (largest == -HUGE_VALF)
    return Error{Code::InvalidArgument, "the logits of all tokens are minus infinity"};

  // Without the largest one's 1, so that the logprob of a near certainty keeps its digits.
  double others = 0;
  for (size_t i = 0; i < logits.size(); ++i)
    others += i == first ? 0 : std::exp(double(logits[i]) - double(largest));
  const auto logprobOf = [&, logSum = std::log1p(others)](float logit) {
    return float(double(logit) - double(largest) - logSum);
  };
  for (TokenLogprob &entry : likely)
    entry.logprob = logprobOf(entry.logprob);
  return logprobOf(logits[size_t(token)]);
}

} // namespace moe
