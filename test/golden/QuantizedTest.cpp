// Quantized checkpoints, decoded and run: the logits that transformers computes with the elements
// that their libraries decode.
#include "runtime/session/Generate.h"
#include "test/golden/Golden.h"
#include "test/golden/Running.h"

#include <gtest/gtest.h>

using namespace moe;
using namespace moe::test;

namespace {

constexpr double logitTolerance = 1e-3;
// KL divergence, in nats, of weights or activations that were rounded from those that were decoded.
// As of plain checkpoints (GoldenTest.cpp).
constexpr double meanDivergence = 5e-3;

class QuantizedTest : public testing::TestWithParam<std::string> {
protected:
  Session open(const std::string &weights) {
    std::string target = hostTargets().back();
    SessionOptions options;
    options.context = 128;
    return openSession(planOf(folder, weights, {target}), target, options);
  }

  std::vector<Logits> alone(Session &session) {
    std::vector<Logits> logits;
    for (const Ids &text : golden.texts())
      logits.push_back(runTexts(session, {&text, 1}, whole)[0]);
    return logits;
  }

  void expectClose(const std::vector<Logits> &found, const std::string &how) {
    Session session = open("f32");
    std::vector<Logits> exact = alone(session);
    double sum = 0;
    size_t rows = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      ASSERT_EQ(found[i].rows(), exact[i].rows());
      for (size_t row = 0; row < exact[i].rows(); ++row)
        sum += divergence(exact[i][row], found[i][row]);
      rows += exact[i].rows();
    }
    RecordProperty("mean_divergence_" + how, std::to_string(sum / double(rows)));
    EXPECT_LE(sum / double(rows), meanDivergence) << how;
    EXPECT_GT(sum, 0) << how; // it does round
  }

  std::string folder = sourcePath("test/golden/quantized/" + GetParam());
  Golden golden = Golden::open(folder + "/golden.json");
};

} // namespace

TEST_P(QuantizedTest, LogitsAreThoseOfTheDecodedWeights) {
  Session session = open("f32");
  for (const GoldenPrompt &prompt : golden.prompts) {
    Logits logits = runTexts(session, {&prompt.ids, 1}, whole)[0];
    for (size_t i = 0; i < prompt.positions.size(); ++i)
      EXPECT_LE(largestDifference(logits[size_t(prompt.positions[i])], prompt.logits[i]),
                logitTolerance);
    for (size_t i = 0; i < prompt.ids.size(); ++i)
      EXPECT_EQ(argmax(logits[i]), prompt.argmax[i]);

    int32_t sequence = valueOf(session.addSequence());
    GenerateOptions generation;
    generation.maxTokens = int64_t(prompt.greedy.size());
    auto keepGoing = [](const Piece &) { return ok(); };
    auto generated = generate(session, sequence, prompt.ids, generation, nullptr, keepGoing);
    EXPECT_EQ(valueOf(std::move(generated)).tokens, prompt.greedy);
    session.removeSequence(sequence);
  }
}

// Decoded and rounded to bfloat16, and multiplied as the codes that they are.
TEST_P(QuantizedTest, StaysClose) {
  for (std::string weights : {"bf16", "keep"}) {
    Session rounded = open(weights);
    expectClose(alone(rounded), weights);
  }
}

// Plans for GPUs multiply the codes too, in large steps and in small ones.
TEST_P(QuantizedTest, StaysCloseOnGpus) {
  const Plan &plan = planOf(folder, "keep", {"cuda:sm_90a", "cuda:sm_80"}, {}, {}, 64);
  std::vector<Ids> texts = golden.texts();
  SessionOptions options;
  options.context = 128;
  options.maxSequences = int32_t(texts.size());
  for (std::string target : {"cuda:sm_90a", "cuda:sm_80"}) {
    Session session = openSession(plan, target, options);
    expectClose(runTexts(session, texts, whole), target + "_whole");
    expectClose(runTexts(session, texts, oneByOne), target + "_one_by_one");
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, QuantizedTest, testing::Values("fp8-experts", "w4a16"),
                         [](const auto &info) { return info.param == "w4a16" ? "w4a16" : "fp8"; });
