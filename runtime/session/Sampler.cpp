// Nothing here depends on the machine's libm or on the library's order of equal elements. This file
// is compiled without contraction of a * b + c, which is the compiler's choice otherwise.
#include "runtime/session/Sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

namespace moe {
namespace {

// e^x for x <= 0 to within 2 ulp, from additions and multiplications alone.
double exponential(double x) {
  if (x < -700)
    return 0;
  double n = std::floor(x * 1.4426950408889634 + 0.5);
  double r =
      (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10; // ln 2 in two parts
  double sum = 1;
  for (int i = 14; i > 0; --i) // |r| <= 0.35: the next term is below 2^-60
    sum = 1 + sum * r / i;
  return sum * std::bit_cast<double>(uint64_t(1023 + int64_t(n)) << 52);
}

constexpr const char *nothingToChoose = "the logits of all tokens are minus infinity";

std::string text(double value) {
  std::string digits = std::to_string(value);
  digits.erase(std::min(digits.find_last_not_of('0') + 1, digits.size()));
  if (digits.back() == '.')
    digits.pop_back();
  return digits;
}

} // namespace

Result<Sampler> Sampler::create(const SamplerOptions &options, int64_t vocab) {
  auto refuse = [](const char *name, double value, const char *range) {
    return Error{Code::InvalidArgument,
                 std::string(name) + " must be " + range + ", not " + text(value)};
  };
  // Written so that NaN is refused.
  if (!(options.temperature >= 0 && std::isfinite(options.temperature)))
    return refuse("temperature", options.temperature, "0 (greedy) or more");
  if (options.topK < 0)
    return refuse("top-k", options.topK, "0 (all tokens) or more");
  if (!(options.topP > 0 && options.topP <= 1))
    return refuse("top-p", options.topP, "above 0 and at most 1");
  if (!(options.minP >= 0 && options.minP < 1))
    return refuse("min-p", options.minP, "at least 0 and below 1");
  if (!(options.repetitionPenalty > 0 && std::isfinite(options.repetitionPenalty)))
    return refuse("repetition penalty", options.repetitionPenalty, "above 0");
  if (vocab < 1)
    return refuse("the vocabulary", double(vocab), "at least one token");
  Sampler sampler;
  sampler.options = options;
  if (options.repetitionPenalty != 1)
    sampler.seen.resize(vocab);
  sampler.candidates.reserve(vocab);
  sampler.reset();
  return sampler;
}

void Sampler::reset() {
  random = options.seed;
  std::fill(seen.begin(), seen.end(), 0);
}

void Sampler::observe(int32_t token) {
  if (token >= 0 && size_t(token) < seen.size())
    seen[token] = 1;
}

// SplitMix64 (Steele, Lea, Flood 2014): 64 bits of state, one output per step.
double Sampler::uniform() {
  uint64_t z = random += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  z ^= z >> 31;
  return double(z >> 11) * 0x1p-53;
}

// The logit of a token after the repetition penalty.
inline Result<double> Sampler::penalized(std::span<const float> logits, size_t token) const {
  double logit = logits[token];
  if (!(logit < HUGE_VAL))
    return Error{Code::InvalidArgument, "the logit of token " + std::to_string(token) + " is " +
                                            (std::isnan(logit) ? "not a number" : "infinite")};
  if (token < seen.size() && seen[token])
    return logit < 0 ? logit * options.repetitionPenalty : logit / options.repetitionPenalty;
  return logit;
}

Result<int32_t> Sampler::greedy(std::span<const float> logits) const {
  double best = -HUGE_VAL;
  int32_t token = -1;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] <= best && seen.empty()) // the usual case, and false for NaN
      continue;
    MOE_ASSIGN(logit, penalized(logits, i));
    if (logit > best) {
      best = logit;
      token = int32_t(i);
    }
  }
  if (token < 0)
    return Error{Code::InvalidArgument, nothingToChoose};
  return token;
}

// Fills `candidates` with the finite logits in the order of ids.
Status Sampler::gather(std::span<const float> logits) {
  candidates.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    MOE_ASSIGN(logit, penalized(logits, i));
    if (logit != -HUGE_VAL)
      candidates.push_back({logit, int32_t(i)});
  }
  if (candidates.empty())
    return Error{Code::InvalidArgument, nothingToChoose};
  return ok();
}

Result<int32_t> Sampler::sample(std::span<const float> logits) {
  if (logits.size() > candidates.capacity())
    return Error{Code::InvalidArgument, "more logits than the vocabulary has tokens"};
  if (options.temperature == 0)
    return greedy(logits);
  MOE_TRY(gather(logits));
  const Candidate best = *std::min_element(candidates.begin(), candidates.end(), before);

  if (options.topK > 0 && size_t(options.topK) < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + options.topK, candidates.end(),
                     before);
    candidates.resize(options.topK);
  }
  if (options.topK > 0) // the order of ids is lost, and the sums below depend on the order
    std::sort(candidates.begin(), candidates.end(), before);

  double total = 0;
  for (Candidate &candidate : candidates) {
    candidate.logit = exponential((candidate.logit - best.logit) / options.temperature);
    total += candidate.logit;
  }
  if (options.topP < 1) {
    // A heap, since most of the probability is usually in a few of 200 000 tokens.
    double reached = 0;
    auto later = [](const Candidate &a, const Candidate &b) { return before(b, a); };
    std::make_heap(candidates.begin(), candidates.end(), later);
    auto end = candidates.end();
    while (end != candidates.begin() && reached < options.topP * total) {
      std::pop_heap(candidates.begin(), end, later);
      reached += (--end)->logit;
    }
    candidates.erase(candidates.begin(), end); // what is left stands in ascending order
    total = reached;
  }
  if (options.minP > 0) {
    // The best one's is 1.
    std::erase_if(candidates, [&](const Candidate &c) { return c.logit < options.minP; });
    total = 0;
    for (const Candidate &candidate : candidates)
      total += candidate.logit;
  }

  double target = uniform() * total;
  for (const Candidate &candidate : candidates) {
    target -= candidate.logit;
    if (target < 0)
      return candidate.token;
  }
  // Rounding only: the last one that has any probability.
  for (size_t i = candidates.size(); i-- > 0;)
    if (candidates[i].logit > 0)
      return candidates[i].token;
  return best.token;
}

} // namespace moe
