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
  Session exact = open("f32");
  for (std::string weights : {"bf16", "keep"}) {
    Session rounded = open(weights);
    double sum = 0;
    size_t rows = 0;
    for (const Ids &text : golden.texts()) {
      Logits expected = runTexts(exact, {&text, 1}, whole)[0];
      Logits found = runTexts(rounded, {&text, 1}, whole)[0];
      ASSERT_EQ(found.rows(), expected.rows());
      for (size_t row = 0; row < expected.rows(); ++row)
        sum += divergence(expected[row], found[row]);
      rows += expected.rows();
    }
    RecordProperty("mean_divergence_" + weights, std::to_string(sum / double(rows)));
    EXPECT_LE(sum / double(rows), meanDivergence) << weights;
    EXPECT_GT(sum, 0); // it does round
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, QuantizedTest, testing::Values("fp8-experts", "w4a16"),
                         [](const auto &info) { return info.param == "w4a16" ? "w4a16" : "fp8"; });
