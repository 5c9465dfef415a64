// The tiny models, compiled from a checkpoint to float32 and bfloat16 plans and run: the logits of
// transformers, whatever the steps in which a text is run.
#include "test/golden/Golden.h"
#include "runtime/session/Generate.h"
#include "test/golden/Running.h"

#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"

#include <cmath>
#include <fstream>
#include <gtest/gtest.h>
#include <numeric>
#include <set>

using namespace moe;
using namespace moe::test;

namespace {

constexpr double logitTolerance = 1e-3;

// KL divergence, in nats, of bfloat16 weights, activations and cache from float32 arithmetic on the
// same weights. The mean is that of the few tokens whose nearly tied experts change places.
constexpr double bfloat16MeanDivergence = 5e-3;
constexpr double bfloat16MedianDivergence = 1e-4;

class GoldenTest : public testing::TestWithParam<std::tuple<std::string, std::string>> {
protected:
  void SetUp() override {
    std::tie(name, target) = GetParam();
    golden = Golden::open(caseFolder(name) + "/golden.json");
    if (!canRun(target))
      GTEST_SKIP() << "this processor cannot run " << target;
    plan = &planOf(caseCheckpoint(name, "f32"), "f32");
  }

  std::string name, target;
  Golden golden;
  const Plan *plan = nullptr;
};

std::string testName(const testing::TestParamInfo<GoldenTest::ParamType> &info) {
  std::string name = std::get<0>(info.param) + "_" + std::get<1>(info.param).substr(4);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

} // namespace

TEST_P(GoldenTest, LogitsAreThoseOfTransformers) {
  SessionOptions options;
  options.context = 128;
  Session session = openSession(*plan, target, options);
  double largest = 0;
  for (const GoldenPrompt &prompt : golden.prompts) {
    Logits logits = runTexts(session, {&prompt.ids, 1}, whole)[0];
    for (size_t i = 0; i < prompt.positions.size(); ++i) {
      std::span<const float> row = logits[size_t(prompt.positions[i])];
      ASSERT_EQ(row.size(), prompt.logits[i].size());
      double error = largestDifference(row, prompt.logits[i]);
      EXPECT_LE(error, logitTolerance)
          << prompt.ids.size() << " tokens, position " << prompt.positions[i];
      largest = std::max(largest, error);
    }
    for (size_t i = 0; i < prompt.ids.size(); ++i)
      EXPECT_EQ(argmax(logits[i]), prompt.argmax[i])
          << prompt.ids.size() << " tokens, position " << i;
  }
  RecordProperty("largest_error", std::to_string(largest));
}

TEST_P(GoldenTest, GreedyContinuationIsThatOfTransformers) {
  SessionOptions options;
  options.context = 128;
  Session session = openSession(*plan, target, options);
  for (const GoldenPrompt &prompt : golden.prompts) {
    int32_t sequence = valueOf(session.addSequence());
    GenerateOptions generation;
    generation.maxTokens = int64_t(prompt.greedy.size());
    auto keepGoing = [](const Piece &) { return ok(); };
    auto generated = generate(session, sequence, prompt.ids, generation, nullptr, keepGoing);
    EXPECT_EQ(valueOf(std::move(generated)).tokens, prompt.greedy);
    session.removeSequence(sequence);
  }
}

TEST_P(GoldenTest, AllWaysToRunGiveTheSameBits) {
  expectSameBitsInAllWays(*plan, target, golden.texts());
}

TEST_P(GoldenTest, Bfloat16StaysClose) {
  std::string checkpoint = caseCheckpoint(name, "bf16");
  const Plan &rounded = planOf(checkpoint, "bf16");
  const Plan &exact = planOf(checkpoint, "f32", {hostTargets().back()});
  std::vector<Ids> texts = golden.texts();

  SessionOptions options;
  options.context = 128;
  Session session = openSession(exact, hostTargets().back(), options),
          roundedSession = openSession(rounded, target, options);
  std::vector<Logits> found;
  for (const Ids &text : texts)
    found.push_back(runTexts(roundedSession, {&text, 1}, whole)[0]);
  std::vector<double> divergences;
  for (size_t i = 0; i < texts.size(); ++i) {
    Logits expected = runTexts(session, {&texts[i], 1}, whole)[0];
    ASSERT_EQ(found[i].rows(), expected.rows());
    for (size_t row = 0; row < expected.rows(); ++row)
      divergences.push_back(divergence(expected[row], found[i][row]));
  }
  std::sort(divergences.begin(), divergences.end());
  double mean = std::accumulate(divergences.begin(), divergences.end(), 0.0);
  mean /= double(divergences.size());
  double median = divergences[divergences.size() / 2];
  RecordProperty("mean_divergence", std::to_string(mean));
  RecordProperty("median_divergence", std::to_string(median));
  EXPECT_LE(mean, bfloat16MeanDivergence);
  EXPECT_LE(median, bfloat16MedianDivergence);
}

class Bfloat16Ways : public GoldenTest {};

TEST_P(Bfloat16Ways, GiveTheSameBits) {
  expectSameBitsInAllWays(planOf(caseCheckpoint(name, "bf16"), "bf16"), target, golden.texts());
}

// The kernels' own tests compare bits in any company; here a model of each kind is enough for each
// change.
const std::set<std::string> someNames = {"scout", "maverick", "odd-sizes"};
std::vector<std::string> namesOf(bool some) {
  std::vector<std::string> names = caseNames();
  std::erase_if(names, [&](const std::string &name) { return someNames.count(name) != some; });
  return names;
}
INSTANTIATE_TEST_SUITE_P(Some, Bfloat16Ways,
                         testing::Combine(testing::ValuesIn(namesOf(true)),
                                          testing::ValuesIn(hostTargets())),
                         testName);
INSTANTIATE_TEST_SUITE_P(Long, Bfloat16Ways,
                         testing::Combine(testing::ValuesIn(namesOf(false)),
                                          testing::ValuesIn(hostTargets())),
                         testName);

INSTANTIATE_TEST_SUITE_P(Tiny, GoldenTest,
                         testing::Combine(testing::ValuesIn(caseNames()),
                                          testing::ValuesIn(hostTargets())),
                         testName);

// A model with random weights, so large that workers claim parts of each, and with a text so long
// that they claim segments of what its tokens attend to.
class LargeModel : public testing::TestWithParam<std::string> {
protected:
  void SetUp() override {
    if (!canRun(GetParam()))
      GTEST_SKIP() << "this processor cannot run " << GetParam();
    auto file = llvm::MemoryBuffer::getFile(caseFolder("scout") + "/config.json");
    ASSERT_TRUE(file);
    llvm::json::Value value = valueOf(llvm::json::parse((*file)->getBuffer()));
    llvm::json::Object &config = *value.getAsObject();
    config["hidden_size"] = 512;
    config["num_attention_heads"] = 16;
    config["num_key_value_heads"] = 4;
    config["head_dim"] = 64;
    config["intermediate_size"] = 512;
    config["intermediate_size_mlp"] = 1024;
    config["moe_layers"] = llvm::json::Array{0, 1};
    config["no_rope_layers"] = llvm::json::Array{1, 0};
    config["num_hidden_layers"] = 2;
    config["attention_chunk_size"] = 600;
    config["vocab_size"] = 1024;
    std::string text;
    llvm::raw_string_ostream(text) << value;
    std::ofstream(temporaryFolder() + "/large.json") << text;
  }
};

// The kernels of the plan that have counters, without what follows the first word of their names.
std::set<std::string> claimingKernels(const Plan &plan) {
  std::set<std::string> names;
  for (const fb::Program *program : plan.programs("cpu"))
    for (const fb::Call *call : *program->calls()) {
      const fb::KernelCall &kernel = *call->operation_as_KernelCall();
      std::string name = plan.index().kernels()->Get(kernel.kernel())->name()->str();
      for (const fb::Operand *operand : *kernel.operands())
        if (operand->kind() == fb::OperandKind::Counters)
          names.insert(name.substr(0, name.find('_')));
    }
  return names;
}

TEST_P(LargeModel, ManyWorkersGiveTheSameBits) {
  const Plan &plan = planOf(temporaryFolder() + "/large.json", "bf16", {GetParam()}, 1);
  EXPECT_EQ(claimingKernels(plan),
            (std::set<std::string>{"attention", "down", "gate", "head", "linear", "qkv"}));
  std::vector<Ids> texts{Ids(1100), Ids(30)};
  for (Ids &text : texts)
    for (size_t i = 0; i < text.size(); ++i)
      text[i] = int32_t((i * i + 7 * i + text.size()) % 1021);
  SessionOptions options;
  options.context = int64_t(texts[0].size());
  options.maxSequences = 2;
  std::vector<Logits> expected;
  for (int threads : {1, 3, 64}) {
    options.threads = threads;
    Session session = openSession(plan, GetParam(), options);
    if (expected.empty())
      expected = runTexts(session, texts, whole);
    // Both texts in each step, of one to four tokens around the ends of the first two segments.
    auto small = [](int64_t step, size_t text) {
      if (text == 1)
        return int64_t(step % 3 == 0);
      return step == 0 ? int64_t(500) : step == 12 ? int64_t(480) : 1 + step % 4;
    };
    for (auto [schedule, how] : {std::pair<Schedule, const char *>(mixed, "mixed"),
                                 std::pair<Schedule, const char *>(small, "small")}) {
      const std::vector<Logits> found = runTexts(session, texts, schedule);
      for (size_t i = 0; i < texts.size(); ++i)
        expectSameBits(expected[i], found[i],
                       std::string(how) + " steps on " + std::to_string(threads) +
                           " threads, text " + std::to_string(i));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, LargeModel, testing::ValuesIn(hostTargets()),
                         [](const testing::TestParamInfo<std::string> &info) {
                           std::string name = info.param.substr(4);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });
