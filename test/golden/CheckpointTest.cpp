// Checkpoints of every form, the specification's two cases, and random weights: the same plans.
#include "compiler/import/RandomWeights.h"
#include "compiler/import/Safetensors.h"
#include "dialects/moe/GoldenModel.h"
#include "test/golden/Golden.h"
#include "test/golden/Running.h"

#include <cstring>
#include <gtest/gtest.h>

using namespace moe;
using namespace moe::test;

namespace {

// MoE and dense layers in turn, and sizes that no two dimensions share.
constexpr const char *oddCase = "odd-sizes";

// One target is enough where plans are compared.
const std::vector<std::string> oneTarget{hostTargets().back()};

Session openPlan(const Plan &plan) {
  SessionOptions options;
  options.context = 128;
  return openSession(plan, oneTarget[0], options);
}

// The same tensors with the same bytes, and the same logits.
void expectSameModel(const Plan &expected, const Plan &found) {
  auto *expectedTensors = expected.index().tensors(), *foundTensors = found.index().tensors();
  ASSERT_EQ(expectedTensors->size(), foundTensors->size());
  for (uint32_t i = 0; i < expectedTensors->size(); ++i) {
    const fb::Tensor &a = *expectedTensors->Get(i), &b = *foundTensors->Get(i);
    std::string name = a.name()->str();
    ASSERT_EQ(name, b.name()->str());
    ASSERT_EQ(a.bytes(), b.bytes()) << name;
    EXPECT_EQ(std::memcmp(expected.section(a.section()).data() + a.offset(),
                          found.section(b.section()).data() + b.offset(), a.bytes()),
              0)
        << name;
  }
  std::vector<Ids> texts = Golden::open(caseFolder(oddCase) + "/golden.json").texts();
  Session expectedSession = openPlan(expected), foundSession = openPlan(found);
  for (const Ids &text : texts)
    EXPECT_EQ(runTexts(expectedSession, {&text, 1}, whole)[0].values,
              runTexts(foundSession, {&text, 1}, whole)[0].values);
}

class CheckpointForms : public testing::TestWithParam<std::vector<std::string>> {};

std::string formName(const testing::TestParamInfo<std::vector<std::string>> &info) {
  std::string name;
  for (const std::string &argument : info.param)
    for (char letter : argument)
      if (isalnum(letter))
        name += letter;
  return name;
}

} // namespace

TEST_P(CheckpointForms, MakeTheSamePlan) {
  // Of the same dtype: float16 rounds the weights.
  std::vector<std::string> more = GetParam();
  std::string dtype = more[0];
  more.erase(more.begin());
  const Plan &plain = planOf(caseCheckpoint(oddCase, dtype), "f32", oneTarget);
  const Plan &other = planOf(caseCheckpoint(oddCase, dtype, more), "f32", oneTarget);
  expectSameModel(plain, other);
}

INSTANTIATE_TEST_SUITE_P(Odd, CheckpointForms,
                         testing::Values(std::vector<std::string>{"f32", "--experts", "per-expert"},
                                         std::vector<std::string>{"f32", "--experts", "linearized"},
                                         std::vector<std::string>{"f32", "--experts", "stacked"},
                                         std::vector<std::string>{"f32", "--arch", "conditional"},
                                         std::vector<std::string>{"f32", "--shards", "3"},
                                         std::vector<std::string>{"f32", "--config-style", "v5"},
                                         std::vector<std::string>{
                                             "f16", "--experts", "stacked", "--arch", "conditional",
                                             "--shards", "4", "--config-style", "v5"}),
                         formName);

// The two programs that make random weights agree, in every dtype: so does the reading of F16 and
// BF16, as each rounds in its own way.
TEST(RandomWeights, AreThoseOfMakeCheckpoint) {
  for (const std::string &name : caseNames())
    for (const char *dtype : {"f32", "f16", "bf16"}) {
      if (name != oddCase && dtype != std::string("f32"))
        continue;
      SCOPED_TRACE(name + " " + dtype);
      std::string folder = caseCheckpoint(name, dtype);
      std::vector<std::string> warnings;
      Llama4Config config = valueOf(Llama4Config::open(folder, warnings));
      RandomWeights random(config, Golden::open(caseFolder(name) + "/golden.json").seed);
      Checkpoint checkpoint = valueOf(Checkpoint::open(folder));
      EXPECT_EQ(checkpoint.tensors().size(), random.tensors().size());
      for (const TensorInfo &tensor : checkpoint.tensors()) {
        const TensorInfo *other = random.find(tensor.name);
        ASSERT_TRUE(other) << tensor.name;
        ASSERT_EQ(tensor.shape, other->shape) << tensor.name;
        std::vector<float> stored(tensor.elements), made(tensor.elements);
        ASSERT_TRUE(checkpoint.read(tensor.name, 0, stored));
        ASSERT_TRUE(random.read(tensor.name, 0, made));
        EXPECT_EQ(stored, made) << tensor.name;
      }
    }
}

TEST(RandomWeights, MakeThePlanOfTheCheckpoint) {
  uint64_t seed = Golden::open(caseFolder(oddCase) + "/golden.json").seed;
  const Plan &random = planOf(caseFolder(oddCase) + "/config.json", "f32", oneTarget, seed);
  expectSameModel(planOf(caseCheckpoint(oddCase, "f32"), "f32", oneTarget), random);
}

// The published logits have five decimals.
static void expectPublishedLogits(const golden::Model &model) {
  const double tolerance = 1e-4;
  const Plan &plan = planOf(makeCheckpoint({"--appendix", model.name, "--dtype", "f32"}), "f32");
  for (const std::string &target : hostTargets()) {
    SCOPED_TRACE(target);
    if (!canRun(target))
      continue;
    Session session = openSession(plan, target, {});
    Ids text = golden::tokens();
    Logits logits = runTexts(session, {&text, 1}, whole)[0];
    for (const golden::LogitsRow &published : model.logits) {
      std::span<const float> row = logits[size_t(published.position)];
      for (size_t i = 0; i < published.first.size(); ++i)
        EXPECT_NEAR(row[i], published.first[i], tolerance)
            << "position " << published.position << ", id " << i;
      EXPECT_EQ(argmax(row), published.argmax);
      EXPECT_NEAR(row[size_t(published.argmax)], published.largest, tolerance);
    }
    double sum = 0, squares = 0;
    for (float logit : logits.values) {
      sum += logit;
      squares += double(logit) * logit;
    }
    EXPECT_NEAR(sum, model.logitsSum, 1e-3);
    EXPECT_NEAR(squares, model.logitsSquares, 1e-2);
  }
}

TEST(Specification, CaseA) { expectPublishedLogits(golden::scoutLike()); }
TEST(Specification, CaseB) { expectPublishedLogits(golden::maverickLike()); }
