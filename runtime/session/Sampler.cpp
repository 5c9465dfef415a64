// Nothing here depends on the machine's libm or on the library's order of equal elements. This file
// is compiled without contraction of a * b + c, which is the compiler's choice otherwise.
#include "runtime/session/Sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

namespace moe {
namespace {

constexpr double kOne = 0x1p36; // the weight of the most likely token

// As Sampler.h has it, for x = (logit - m) * scale.
uint64_t weightOf(float x) {
  if (!(x > -37))
    return 0;
  const int32_t n = int32_t(x - 0.5f); // to the nearest, as x is not positive
  const float f = x - float(n);
  // (ln 2)^i / i!: the first term left out is below 2^-28.
  constexpr float series[] = {1.52527338e-05f, 1.54035303e-04f, 1.33335581e-03f, 9.61812911e-03f,
                              5.55041087e-02f, 2.40226507e-01f, 6.93147181e-01f, 1.0f};
  float y = series[0];
  for (int i = 1; i < 8; ++i) {
    y = y * f;
    y = y + series[i];
  }
  return uint64_t(int32_t(y * 0x1p24f)) << 12 >> -n;
}

// floor(a * b / 2^64)
uint64_t highProduct(uint64_t a, uint64_t b) {
  const uint64_t aLow = uint32_t(a), aHigh = a >> 32, bLow = uint32_t(b), bHigh = b >> 32;
  const uint64_t middle = aHigh * bLow + (aLow * bLow >> 32), other = aLow * bHigh;
  return aHigh * bHigh + (middle >> 32) + ((uint64_t(uint32_t(middle)) + other) >> 32);
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
  Draw &draw = sampler.parameters;
  if (options.temperature > 0) // within the normal numbers of float32
    draw.scale = float(std::clamp(1.4426950408889634 / options.temperature, 0x1p-126, 0x1p126));
  draw.topK = options.topK;
  if (options.topP < 1) // at least one token is kept
    draw.topP = std::max<uint64_t>(1, uint64_t(options.topP * 0x1p64));
  draw.minWeight = uint64_t(std::ceil(options.minP * kOne));
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
constexpr uint64_t kStep = 0x9e3779b97f4a7c15;

uint64_t Sampler::nextRandom() const {
  uint64_t z = random + kStep;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

void Sampler::advance() {
  if (options.temperature > 0)
    random += kStep;
}

std::optional<Draw> Sampler::draw() const {
  if (options.repetitionPenalty != 1)
    return std::nullopt;
  Draw draw = parameters;
  draw.random = nextRandom();
  return draw;
}

Error Sampler::errorOf(int32_t id) {
  if (id == kNothingToChoose)
    return {Code::InvalidArgument, nothingToChoose};
  return {Code::InvalidArgument,
          "the logit of token " + std::to_string(tokenOfBadLogit(id)) + " is not a finite number"};
}

// The logit of a token after the repetition penalty.
inline Result<float> Sampler::penalized(std::span<const float> logits, size_t token) const {
  float logit = logits[token];
  if (!(logit < HUGE_VALF))
    return Error{Code::InvalidArgument, "the logit of token " + std::to_string(token) + " is " +
                                            (std::isnan(logit) ? "not a number" : "infinite")};
  if (token < seen.size() && seen[token])
    return float(logit < 0 ? logit * options.repetitionPenalty : logit / options.repetitionPenalty);
  return logit;
}

Result<int32_t> Sampler::greedy(std::span<const float> logits) const {
  float best = -HUGE_VALF;
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
    if (logit != -HUGE_VALF)
      candidates.push_back({logit, int32_t(i), 0});
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
  uint64_t total = 0;
  for (Candidate &candidate : candidates) {
    candidate.weight = weightOf((candidate.logit - best.logit) * parameters.scale);
    total += candidate.weight;
  }
  if (options.topP < 1) {
    // A heap, since most of the probability is usually in a few of 200 000 tokens.
    const uint64_t wanted = std::max<uint64_t>(1, highProduct(parameters.topP, total));
    uint64_t reached = 0;
    auto later = [](const Candidate &a, const Candidate &b) { return before(b, a); };
    std::make_heap(candidates.begin(), candidates.end(), later);
    auto end = candidates.end();
    while (end != candidates.begin() && reached < wanted) {
      std::pop_heap(candidates.begin(), end, later);
      reached += (--end)->weight;
    }
    candidates.erase(candidates.begin(), end);
  }
  if (options.minP > 0)
    std::erase_if(candidates, [&](const Candidate &c) { return c.weight < parameters.minWeight; });
  if (options.topK > 0 || options.topP < 1) // the order of ids is lost
    std::sort(candidates.begin(), candidates.end(),
              [](const Candidate &a, const Candidate &b) { return a.token < b.token; });

  total = 0;
  for (const Candidate &candidate : candidates)
    total += candidate.weight;
  const uint64_t target = highProduct(nextRandom(), total);
  advance();
  uint64_t sum = 0;
  for (const Candidate &candidate : candidates) {
    sum += candidate.weight;
    if (sum > target)
      return candidate.token;
  }
  return best
      .token; // not reached: the best one's weight is 2^36, and the target is below the total
}

} // namespace moe
