// Compares distributions and the tokens that follow from them.
#include "tools/gpu-check/CheckText.h"

#include "runtime/session/Session.h"

#include <algorithm>
#include <cmath>

namespace moe::gpucheck {

// CPUs round the activations of products of codes to other numbers than GPUs do, so nearly tied
// tokens may change places, and distributions differ a little.
static constexpr float kNearlyTied = 0.5;
static constexpr double kMostDivergence = 0.02;

bool CheckedText::right() const {
  return tokens > 0 && rightTokens == tokens && divergence <= kMostDivergence;
}

static std::vector<double> logSoftmax(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits)
    sum += std::exp(logit - largest);
  std::vector<double> result;
  for (float logit : logits)
    result.push_back(logit - largest - std::log(sum));
  return result;
}

static double divergence(std::span<const float> from, std::span<const float> to) {
  const std::vector<double> p = logSoftmax(from), q = logSoftmax(to);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i)
    sum += std::exp(p[i]) * (p[i] - q[i]);
  return sum;
}

Result<CheckedText> checkText(const std::string &path, const std::string &device,
                              const fb::Text &text) {
  MOE_ASSIGN(plan, Plan::open(path));
  SessionOptions options;
  options.device = device;
  options.context = int64_t(text.prompt()->size()) + text.tokens()->size();
  MOE_ASSIGN(session, Session::create(plan, options));
  const size_t vocab = text.logits()->size() / text.tokens()->size();
  if (size_t(session.vocab()) != vocab)
    return Error{Code::InvalidArgument, "'" + path + "' has " + std::to_string(session.vocab()) +
                                            " tokens in its vocabulary, expected " +
                                            std::to_string(vocab) +
                                            ": it is not the plan that the bundle was made with"};
  MOE_ASSIGN(sequence, session.addSequence());
  const std::vector<int32_t> prompt(text.prompt()->begin(), text.prompt()->end());
  std::span<const int32_t> next = prompt;
  CheckedText checked;
  const uint32_t rows = text.tokens()->size();
  std::vector<int32_t> token(1);
  for (uint32_t row = 0; row < rows; ++row) {
    MOE_ASSIGN(logits, session.append(sequence, next));
    const std::span<const float> want(text.logits()->data() + row * vocab, vocab);
    checked.divergence += divergence(want, logits) / rows;
    token[0] = text.tokens()->Get(row);
    next = token;
    if (text.margins()->Get(row) < kNearlyTied)
      continue;
    ++checked.tokens;
    checked.rightTokens +=
        std::max_element(logits.begin(), logits.end()) - logits.begin() == token[0];
  }
  return checked;
}

} // namespace moe::gpucheck
