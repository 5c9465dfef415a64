// Nothing here depends on the machine's libm or on the library's order of equal elements. This file
// is compiled without contraction of a * b + c, which is the compiler's choice otherwise.
#include "runtime/session/Sampler.h"

#include <algorithm>
#include <bit>
#include <cfloat>
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

Error outOfRange(const char *name, double value, const char *range) {
  return {Code::InvalidArgument, std::string(name) + " must be " + range + ", not " + text(value)};
}

Status checkBias(std::span<const LogitBias> biases, int64_t vocab) {
  if (biases.size() > kMaxLogitBias)
    return Error{Code::InvalidArgument, "logit bias has " + std::to_string(biases.size()) +
                                            " entries, at most " + std::to_string(kMaxLogitBias) +
                                            " are allowed"};
  std::vector<int32_t> tokens;
  for (const LogitBias &entry : biases) {
    if (entry.token < 0 || entry.token >= vocab)
      return Error{Code::InvalidArgument, "logit bias has token " + std::to_string(entry.token) +
                                              ", the vocabulary has 0 to " +
                                              std::to_string(vocab - 1)};
    if (!(entry.bias >= -100 && entry.bias <= 100))
      return outOfRange(("logit bias of token " + std::to_string(entry.token)).c_str(), entry.bias,
                        "-100 to 100");
    tokens.push_back(entry.token);
  }
  std::sort(tokens.begin(), tokens.end());
  if (auto twice = std::adjacent_find(tokens.begin(), tokens.end()); twice != tokens.end())
    return Error{Code::InvalidArgument,
                 "logit bias has token " + std::to_string(*twice) + " more than once"};
  return ok();
}

// Written so that NaN is refused.
Status check(const SamplerOptions &options, int64_t vocab) {
  if (vocab < 1)
    return outOfRange("the vocabulary", double(vocab), "at least one token");
  MOE_TRY(checkBias(options.logitBias, vocab));
  if (!(options.repetitionPenalty > 0 && std::isfinite(options.repetitionPenalty)))
    return outOfRange("repetition penalty", options.repetitionPenalty, "above 0");
  if (!(options.frequencyPenalty >= -2 && options.frequencyPenalty <= 2))
    return outOfRange("frequency penalty", options.frequencyPenalty, "-2 to 2");
  if (!(options.presencePenalty >= -2 && options.presencePenalty <= 2))
    return outOfRange("presence penalty", options.presencePenalty, "-2 to 2");
  if (!(options.temperature >= 0 && std::isfinite(options.temperature)))
    return outOfRange("temperature", options.temperature, "0 (greedy) or more");
  if (options.topK < 0)
    return outOfRange("top-k", options.topK, "0 (all tokens) or more");
  if (!(options.topP > 0 && options.topP <= 1))
    return outOfRange("top-p", options.topP, "above 0 and at most 1");
  if (!(options.minP >= 0 && options.minP < 1))
    return outOfRange("min-p", options.minP, "at least 0 and below 1");
  return ok();
}

struct Candidate {
  float logit;
  int32_t token;
  uint64_t weight;
};

// Most likely first, ties to the lower id: a total order, so sorting gives one result anywhere.
bool before(const Candidate &a, const Candidate &b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

Error notFinite(float logit, size_t token) {
  return {Code::InvalidArgument, "the logit of token " + std::to_string(token) + " is " +
                                     (std::isnan(logit) ? "not a number" : "infinite")};
}

// A finite logit stays finite; others stay what they are.
template <typename F> void change(float &logit, F &&function) {
  if (std::isfinite(logit))
    logit = float(std::clamp<double>(function(double(logit)), -FLT_MAX, FLT_MAX));
}

// Logits without a bit in the mask become -inf.
void applyMask(std::span<float> row, std::span<const uint32_t> mask) {
  for (size_t word = 0; word * 32 < row.size(); ++word) {
    const std::span<float> logits =
        row.subspan(word * 32, std::min<size_t>(32, row.size() - word * 32));
    if (mask[word] == 0)
      std::fill(logits.begin(), logits.end(), -HUGE_VALF);
    else if (mask[word] != ~uint32_t(0))
      for (size_t bit = 0; bit < logits.size(); ++bit)
        if (!(mask[word] >> bit & 1))
          logits[bit] = -HUGE_VALF;
  }
}

} // namespace

class Sampler::Workspace {
public:
  explicit Workspace(int64_t vocab) {
    row.reserve(size_t(vocab));
    candidates.reserve(size_t(vocab));
  }
  std::vector<float> row;            // logits after bias, penalties and mask
  std::vector<Candidate> candidates; // of a draw
};

std::shared_ptr<Sampler::Workspace> Sampler::makeWorkspace(int64_t vocab) {
  return std::make_shared<Workspace>(std::max<int64_t>(vocab, 0));
}

Result<Sampler> Sampler::create(const SamplerOptions &options, int64_t vocab,
                                std::shared_ptr<Workspace> workspace) {
  MOE_TRY(check(options, vocab));
  if (!workspace)
    workspace = makeWorkspace(vocab);
  else if (workspace->row.capacity() < size_t(vocab))
    return Error{Code::InvalidArgument, "the sampler's workspace is for a smaller vocabulary"};
  Sampler sampler;
  sampler.options = options;
  sampler.vocab = vocab;
  sampler.workspace = std::move(workspace);
  sampler.biased = !options.logitBias.empty();
  if (options.repetitionPenalty != 1 || options.frequencyPenalty != 0 ||
      options.presencePenalty != 0) {
    sampler.places.assign(size_t(vocab), -1);
    sampler.tokens.reserve(size_t(vocab));
  }
  Draw &draw = sampler.parameters;
  if (options.temperature > 0) // within the normal numbers of float32
    draw.scale = float(std::clamp(1.4426950408889634 / options.temperature, 0x1p-126, 0x1p126));
  draw.topK = options.topK;
  if (options.topP < 1) // at least one token is kept
    draw.topP = std::max<uint64_t>(1, uint64_t(options.topP * 0x1p64));
  draw.minWeight = uint64_t(std::ceil(options.minP * kOne));
  sampler.random = options.seed;
  return sampler;
}

void Sampler::reset() {
  random = options.seed;
  for (const Observed &entry : tokens)
    places[size_t(entry.token)] = -1;
  tokens.clear();
  mask = {};
  forbidden = {};
}

Sampler::Observed &Sampler::observed(int32_t token) {
  int32_t &place = places[size_t(token)];
  if (place < 0) {
    place = int32_t(tokens.size());
    tokens.push_back({token, 0});
  }
  return tokens[size_t(place)];
}

void Sampler::observePrompt(int32_t token) {
  if (token >= 0 && size_t(token) < places.size() && options.repetitionPenalty != 1)
    observed(token);
}

void Sampler::observe(int32_t token) {
  if (token >= 0 && size_t(token) < places.size())
    ++observed(token).generated;
}

Status Sampler::setMask(std::span<const uint32_t> words) {
  if (!words.empty() && int64_t(words.size()) != (vocab + 31) / 32)
    return Error{Code::InvalidArgument, "a mask of " + std::to_string(words.size()) +
                                            " words, the vocabulary of " + std::to_string(vocab) +
                                            " tokens needs " + std::to_string((vocab + 31) / 32)};
  mask = words;
  return ok();
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
  if (biased || penalizes())
    return std::nullopt;
  Draw draw = parameters;
  draw.random = nextRandom();
  draw.masked = restricts();
  return draw;
}

void Sampler::writeMask(std::span<uint32_t> words) const {
  if (mask.empty())
    std::fill(words.begin(), words.end(), ~uint32_t(0));
  else
    std::copy(mask.begin(), mask.end(), words.begin());
  for (int32_t token : forbidden)
    if (token >= 0 && token < vocab)
      words[size_t(token) / 32] &= ~(uint32_t(1) << token % 32);
}

Error Sampler::errorOf(int32_t id) const {
  if (id == kNothingToChoose)
    return nothingLeft();
  return {Code::InvalidArgument,
          "the logit of token " + std::to_string(tokenOfBadLogit(id)) + " is not a finite number"};
}

Error Sampler::nothingLeft() const {
  if (!restricts())
    return {Code::InvalidArgument, nothingToChoose};
  return {Code::InvalidArgument,
          "no token may be chosen: the logits of all that are not masked or forbidden are minus "
          "infinity"};
}

// The logits after bias, penalties and mask, each touching few tokens but for the mask.
std::span<const float> Sampler::changed(std::span<const float> logits) {
  if (!changesLogits())
    return logits;
  std::vector<float> &row = workspace->row;
  row.assign(logits.begin(), logits.end());
  const auto has = [&](int32_t token) { return token >= 0 && size_t(token) < row.size(); };
  for (const LogitBias &entry : options.logitBias)
    if (has(entry.token))
      change(row[size_t(entry.token)], [&](double logit) { return logit + entry.bias; });
  for (const Observed &entry : tokens) {
    if (!has(entry.token))
      continue;
    float &logit = row[size_t(entry.token)];
    const double penalty = options.repetitionPenalty;
    change(logit, [&](double x) { return x < 0 ? x * penalty : x / penalty; });
    if (entry.generated == 0)
      continue;
    change(logit, [&](double x) { return x - options.frequencyPenalty * entry.generated; });
    change(logit, [&](double x) { return x - options.presencePenalty; });
  }
  if (!mask.empty())
    applyMask(row, mask);
  for (int32_t token : forbidden)
    if (has(token))
      row[size_t(token)] = -HUGE_VALF;
  return row;
}

Result<int32_t> Sampler::greedy(std::span<const float> logits) const {
  float best = -HUGE_VALF;
  int32_t token = -1;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] <= best) // the usual case, and false for NaN
      continue;
    if (!(logits[i] < HUGE_VALF))
      return notFinite(logits[i], i);
    best = logits[i];
    token = int32_t(i);
  }
  if (token < 0)
    return nothingLeft();
  return token;
}

// Fills the candidates with the finite logits in the order of ids.
Status Sampler::gather(std::span<const float> logits) {
  std::vector<Candidate> &candidates = workspace->candidates;
  candidates.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] < HUGE_VALF))
      return notFinite(logits[i], i);
    if (logits[i] != -HUGE_VALF)
      candidates.push_back({logits[i], int32_t(i), 0});
  }
  if (candidates.empty())
    return nothingLeft();
  return ok();
}

Result<int32_t> Sampler::sample(std::span<const float> raw) {
  if (int64_t(raw.size()) > vocab)
    return Error{Code::InvalidArgument, "more logits than the vocabulary has tokens"};
  const std::span<const float> logits = changed(raw);
  if (options.temperature == 0)
    return greedy(logits);
  MOE_TRY(gather(logits));
  std::vector<Candidate> &candidates = workspace->candidates;
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
