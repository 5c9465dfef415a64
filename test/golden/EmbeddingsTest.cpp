// Hidden states of the tiny models: times the head of the checkpoint they are the logits, on CPUs
// those of transformers, on the simulated GPU those of the same plan.
#include "compiler/import/Safetensors.h"
#include "test/golden/Golden.h"
#include "test/golden/Running.h"

#include <cmath>
#include <gtest/gtest.h>

using namespace moe;
using namespace moe::test;

namespace {

// The rows of a text as session.run tells them, in pieces: hidden states, or logits.
std::vector<std::vector<float>> rowsOf(Session &session, const Ids &text, bool hidden,
                                       Schedule schedule) {
  std::vector<std::vector<float>> rows;
  const int32_t sequence = valueOf(session.addSequence());
  for (int64_t step = 0; rows.size() < text.size(); ++step) {
    const auto left = std::span(text).subspan(rows.size());
    const int64_t count = std::min(schedule(step, 0), int64_t(left.size()));
    Append part{sequence, left.first(size_t(count)), count};
    part.hidden = hidden;
    valueOf(session.run({&part, 1}, [&](size_t, int64_t, std::span<const float> row) {
      rows.emplace_back(row.begin(), row.end());
      return ok();
    }));
  }
  session.removeSequence(sequence);
  return rows;
}

// The head of a checkpoint: [vocabulary, hidden].
struct Head {
  std::vector<float> weight;

  explicit Head(const std::string &folder) {
    auto checkpoint = valueOf(Checkpoint::open(folder));
    const TensorInfo *tensor = checkpoint.find("lm_head.weight");
    if (!tensor) // tied
      tensor = checkpoint.find("model.embed_tokens.weight");
    weight.resize(size_t(tensor->shape[0] * tensor->shape[1]));
    valueOf(checkpoint.read(tensor->name, 0, weight));
  }
  std::vector<float> logits(std::span<const float> state) const {
    std::vector<float> logits(weight.size() / state.size());
    for (size_t v = 0; v < logits.size(); ++v) {
      double sum = 0;
      for (size_t c = 0; c < state.size(); ++c)
        sum += double(weight[v * state.size() + c]) * state[c];
      logits[v] = float(sum);
    }
    return logits;
  }
};

class Embeddings : public testing::TestWithParam<std::string> {};

TEST_P(Embeddings, AreWhatTheHeadReads) {
  const std::string checkpoint = caseCheckpoint(GetParam(), "f32");
  const Golden golden = Golden::open(caseFolder(GetParam()) + "/golden.json");
  if (runnableTargets().empty())
    GTEST_SKIP() << "this processor can run no target";
  const std::vector<std::string> targets{runnableTargets().front()};
  const Plan &plan = planOf(checkpoint, "f32", targets, {}, {}, 16, /*embeddings=*/true),
             &plain = planOf(checkpoint, "f32", targets, {}, {}, 16);
  const Head head(checkpoint);
  SessionOptions options;
  options.context = 128;
  Session session = openSession(plan, targets[0], options),
          without = openSession(plain, targets[0], options);
  EXPECT_EQ(without.hidden(), 0);
  for (const GoldenPrompt &prompt : golden.prompts) {
    const auto states = rowsOf(session, prompt.ids, true, whole);
    ASSERT_EQ(states.size(), prompt.ids.size());
    EXPECT_EQ(int64_t(states[0].size()), session.hidden());
    for (size_t i = 0; i < prompt.positions.size(); ++i) {
      const std::vector<float> logits = head.logits(states[size_t(prompt.positions[i])]);
      ASSERT_EQ(logits.size(), prompt.logits[i].size());
      EXPECT_LE(largestDifference(logits, prompt.logits[i]), 1e-3)
          << prompt.ids.size() << " tokens, position " << prompt.positions[i];
    }
    // In any steps the same; and what the plan gives besides changes no logit.
    EXPECT_EQ(states, rowsOf(session, prompt.ids, true, uneven));
    EXPECT_EQ(rowsOf(session, prompt.ids, false, whole), rowsOf(without, prompt.ids, false, whole));
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, Embeddings,
                         testing::Values("scout", "maverick", "tied", "odd-sizes"),
                         [](const auto &info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Small and larger steps of a GPU have other kernels. Their heads round states to bf16.
TEST(GpuEmbeddings, AreWhatTheHeadReads) {
  const std::string checkpoint = caseCheckpoint("odd-sizes", "bf16"), target = "cuda:sm_90a";
  const Plan &plan = planOf(checkpoint, "bf16", {target}, {}, {}, 16, /*embeddings=*/true);
  const Head head(checkpoint);
  SessionOptions options;
  options.context = 128;
  Session session = openSession(plan, target, options);
  const Ids text = Golden::open(caseFolder("odd-sizes") + "/golden.json").prompts.back().ids;
  for (Schedule schedule : {whole, uneven}) {
    const auto states = rowsOf(session, text, true, schedule),
               logits = rowsOf(session, text, false, schedule);
    ASSERT_EQ(states.size(), text.size());
    for (size_t row = 0; row < states.size(); ++row) {
      double size = 0;
      for (float logit : logits[row])
        size = std::max(size, std::abs(double(logit)));
      EXPECT_LE(largestDifference(head.logits(states[row]), logits[row]), 0.01 * size)
          << "position " << row;
    }
  }
}

} // namespace
