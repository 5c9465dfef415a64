// Running texts through sessions, and comparing bits.
#include "test/golden/Running.h"

#include "test/golden/Golden.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>

namespace moe::test {

int32_t argmax(std::span<const float> logits) {
  return int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double largestDifference(std::span<const float> a, std::span<const float> b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    double difference = std::abs(double(a[i]) - b[i]);
    if (std::isnan(difference))
      return INFINITY;
    largest = std::max(largest, difference);
  }
  return largest;
}

static double logSum(std::span<const float> logits) {
  double largest = *std::max_element(logits.begin(), logits.end()), sum = 0;
  for (float logit : logits)
    sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

double divergence(std::span<const float> p, std::span<const float> q) {
  double pSum = logSum(p), qSum = logSum(q), result = 0;
  for (size_t i = 0; i < p.size(); ++i)
    result += std::exp(p[i] - pSum) * ((p[i] - pSum) - (q[i] - qSum));
  return result;
}

Session openSession(const Plan &plan, const std::string &target, SessionOptions options) {
  // The best image comes first, so that others need help to be chosen.
  if (target == "cpu:x86-64-v4")
    setenv("MOE_CPU_DISABLE", "amx_tile", 1);
  if (target == "cpu:x86-64-v3-vnni")
    setenv("MOE_CPU_DISABLE", "avx512f", 1);
  if (target == "cpu:x86-64-v3")
    setenv("MOE_CPU_DISABLE", "avx512f,avx_vnni", 1);
  if (target == "cpu:aarch64")
    setenv("MOE_CPU_DISABLE", "i8mm", 1);
  // Of a GPU the simulator takes the part.
  constexpr std::string_view gpu = "cuda:sm_";
  if (target.starts_with(gpu)) {
    options.device = "ptxsim";
    setenv("MOE_PTXSIM_ARCH", std::to_string(std::stoi(target.substr(gpu.size()))).c_str(), 1);
    setenv("MOE_PTXSIM_SMS", "2", 1); // blocks that wait for each other, in little time
  }
  auto session = Session::create(plan, options);
  unsetenv("MOE_CPU_DISABLE");
  unsetenv("MOE_PTXSIM_ARCH");
  unsetenv("MOE_PTXSIM_SMS");
  Session result = valueOf(std::move(session));
  if (!result.description().starts_with(target + ","))
    throw std::runtime_error("asked for " + target + ", got " + result.description());
  return result;
}

// Drawn once; sums that are a multiple of no chunk.
static constexpr int64_t pieces[] = {3, 7, 1, 10, 2, 13, 1, 5, 9, 4, 1, 1, 6, 1, 12, 1, 1, 8};

int64_t whole(int64_t step, size_t text) { return INT64_MAX; }
int64_t oneByOne(int64_t step, size_t text) { return 1; }
int64_t uneven(int64_t step, size_t text) { return pieces[step % std::size(pieces)]; }
int64_t mixed(int64_t step, size_t text) {
  return step < int64_t(text) ? 0 : uneven(step + 5 * int64_t(text), text);
}

std::vector<Logits> runTexts(Session &session, std::span<const Ids> texts, Schedule schedule) {
  std::vector<int32_t> sequences;
  std::vector<Logits> logits(texts.size());
  for (Logits &each : logits) {
    sequences.push_back(valueOf(session.addSequence()));
    each.vocab = size_t(session.vocab());
  }
  for (int64_t step = 0;; ++step) {
    std::vector<Append> parts;
    std::vector<size_t> owners;
    bool done = true;
    for (size_t i = 0; i < texts.size(); ++i) {
      // Every second step has the texts in the opposite order.
      size_t text = step % 2 ? texts.size() - 1 - i : i;
      std::span<const int32_t> left =
          std::span(texts[text]).subspan(size_t(session.length(sequences[text])));
      done &= left.empty();
      int64_t count = std::min(schedule(step, text), int64_t(left.size()));
      if (count == 0)
        continue;
      parts.push_back({sequences[text], left.first(size_t(count)), count});
      owners.push_back(text);
    }
    if (done)
      break;
    valueOf(session.run(parts, [&](size_t part, int64_t, std::span<const float> row) {
      std::vector<float> &values = logits[owners[part]].values;
      values.insert(values.end(), row.begin(), row.end());
      return ok();
    }));
  }
  for (int32_t sequence : sequences)
    session.removeSequence(sequence);
  return logits;
}

void expectSameBits(const Logits &expected, const Logits &found, const std::string &how) {
  ASSERT_EQ(expected.rows(), found.rows()) << how;
  for (size_t row = 0; row < expected.rows(); ++row)
    if (std::memcmp(expected[row].data(), found[row].data(), expected.vocab * sizeof(float)))
      FAIL() << how << ": position " << row << " of " << expected.rows() << " differs by "
             << largestDifference(expected[row], found[row]);
}

std::vector<Logits> expectSameBitsInAllWays(const Plan &plan, const std::string &target,
                                            std::span<const Ids> texts) {
  const int32_t copies = 5;
  SessionOptions options;
  options.maxSequences = std::max(int32_t(texts.size()), copies);
  for (const Ids &text : texts)
    options.context = std::max(options.context, int64_t(text.size()));
  std::vector<Logits> expected;
  auto compare = [&](const std::vector<Logits> &found, const std::string &how) {
    for (size_t i = 0; i < texts.size(); ++i)
      expectSameBits(expected[i], found[i], how + ", text " + std::to_string(i));
  };
  auto alone = [&](Session &session, Schedule schedule) {
    std::vector<Logits> found;
    for (const Ids &text : texts)
      found.push_back(runTexts(session, {&text, 1}, schedule)[0]);
    return found;
  };

  for (int threads : {1, 2, 3}) {
    options.threads = threads;
    std::string on = " on " + std::to_string(threads) + " threads";
    Session session = openSession(plan, target, options);
    if (expected.empty())
      expected = alone(session, whole);
    if (threads == 1)
      compare(alone(session, oneByOne), "token by token");
    compare(alone(session, uneven), "uneven pieces" + on);
    compare(runTexts(session, texts, whole), "all texts in one step" + on);
    compare(runTexts(session, texts, mixed), "texts in shared steps" + on);

    const Ids &last = texts.back();
    std::vector<Ids> same(copies, last);
    for (const Logits &copy : runTexts(session, same, uneven))
      expectSameBits(expected.back(), copy, "the same text many times" + on);
  }
  options.maxStep = 7;
  options.threads = 2;
  Session session = openSession(plan, target, options);
  compare(runTexts(session, texts, whole), "in steps of at most 7 tokens");
  return expected;
}

} // namespace moe::test
