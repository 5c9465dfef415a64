// The tiny models as plans for GPUs, run by the simulator: the logits of the float32 arithmetic
// that GoldenTest.cpp holds against transformers', by the kernels of small and of large steps.
#include "test/golden/Golden.h"
#include "test/golden/Running.h"

#include <gtest/gtest.h>
#include <numeric>
#include <random>
#include <set>

using namespace moe;
using namespace moe::test;

namespace {

// As of the same checkpoints on CPUs (GoldenTest.cpp).
constexpr double meanDivergence = 5e-3;
constexpr double medianDivergence = 1e-4;

// In one case, which has dense layers and layers of experts, all texts are one step of the kernels
// of tiles of 128 tokens, which take the longest to compile; otherwise tiles are of 64. Cases that
// differ from others by a few constants are run by the kernels of small steps alone.
int64_t largestStep(const std::string &name) {
  static const std::set<std::string> constants{"launch-week-rope", "no-temperature",
                                               "scout-short-rope", "strong-temperature", "tied"};
  return name == "maverick" ? 256 : constants.count(name) ? 8 : 64;
}
// Where small and large steps take turns too.
const std::set<std::string> turns{"gqa-5-to-1", "maverick", "odd-sizes"};

class GpuGoldenTest : public testing::TestWithParam<std::tuple<std::string, std::string>> {
protected:
  std::string name = std::get<0>(GetParam()), target = std::get<1>(GetParam());
  std::string checkpoint = caseCheckpoint(name, "bf16");
  std::vector<Ids> texts = Golden::open(caseFolder(name) + "/golden.json").texts();

  std::vector<Logits> exact() {
    const std::string cpu = hostTargets().back();
    SessionOptions options;
    options.context = 128;
    Session session = openSession(planOf(checkpoint, "f32", {cpu}, {}, {}, 4), cpu, options);
    std::vector<Logits> logits;
    for (const Ids &text : texts)
      logits.push_back(runTexts(session, {&text, 1}, whole)[0]);
    return logits;
  }

  void expectClose(const std::vector<Logits> &expected, const std::vector<Logits> &found,
                   const std::string &how) {
    std::vector<double> divergences;
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(found[i].rows(), expected[i].rows());
      for (size_t row = 0; row < expected[i].rows(); ++row)
        divergences.push_back(divergence(expected[i][row], found[i][row]));
    }
    std::sort(divergences.begin(), divergences.end());
    double mean = std::accumulate(divergences.begin(), divergences.end(), 0.0);
    mean /= double(divergences.size());
    double median = divergences[divergences.size() / 2];
    RecordProperty("mean_divergence_" + how, std::to_string(mean));
    RecordProperty("median_divergence_" + how, std::to_string(median));
    EXPECT_LE(mean, meanDivergence) << how;
    EXPECT_LE(median, medianDivergence) << how;
    EXPECT_GT(median, 0) << how; // it does round
  }
};

std::string testName(const testing::TestParamInfo<GpuGoldenTest::ParamType> &info) {
  std::string name = std::get<0>(info.param) + "_" + std::get<1>(info.param).substr(5);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

// All that the kernels for GPUs take on sm_90a; some on sm_80, whose kernels differ in their copies
// and in attention.
std::vector<std::tuple<std::string, std::string>> cases() {
  std::vector<std::tuple<std::string, std::string>> all;
  for (const std::string &name : caseNames())
    if (name != "top-2")
      all.push_back({name, "cuda:sm_90a"});
  for (const std::string &name : turns)
    all.push_back({name, "cuda:sm_80"});
  return all;
}

} // namespace

// In the largest steps; token by token, but for the longest text, side by side in small steps; and
// in pieces of all sizes, where each kind of step reads the keys and values that another kind
// wrote.
TEST_P(GpuGoldenTest, StaysClose) {
  SessionOptions options;
  options.context = 128;
  options.maxSequences = int32_t(texts.size());
  const Plan &plan = planOf(checkpoint, "bf16", {target}, {}, {}, largestStep(name));
  Session session = openSession(plan, target, options);
  std::vector<Logits> expected = exact();
  expectClose(expected, runTexts(session, texts, whole), "whole");
  if (turns.count(name))
    expectClose(expected, runTexts(session, texts, mixed), "mixed");
  auto longest = std::max_element(texts.begin(), texts.end(),
                                  [](const Ids &a, const Ids &b) { return a.size() < b.size(); });
  expected.erase(expected.begin() + (longest - texts.begin()));
  texts.erase(longest);
  expectClose(expected, runTexts(session, texts, oneByOne), "one_by_one");
}

INSTANTIATE_TEST_SUITE_P(Tiny, GpuGoldenTest, testing::ValuesIn(cases()), testName);

// Tokens that a mask restricts are the ones that the host chooses from the same logits: by kernels
// of small and of larger steps, beside rows without a mask.
TEST(GpuPlans, ChooseByMasks) {
  const Plan &plan =
      planOf(caseCheckpoint("odd-sizes", "bf16"), "bf16", {"cuda:sm_90a"}, {}, {}, 16);
  SessionOptions options;
  options.context = 64;
  options.maxSequences = 4;
  Session session = openSession(plan, "cuda:sm_90a", options);
  const Ids text = Golden::open(caseFolder("odd-sizes") + "/golden.json").prompts[0].ids;
  const size_t words = size_t(session.vocab() + 31) / 32;
  std::mt19937 random(3);
  std::vector<int32_t> forbidden;
  for (int32_t token = 0; token < session.vocab(); token += 3)
    forbidden.push_back(token);
  std::vector<Sampler> onDevice, onHost;
  for (int i = 0; i < 4; ++i) {
    valueOf(session.addSequence());
    SamplerOptions sampling;
    sampling.temperature = i % 2 ? 1 : 0;
    sampling.topP = 0.9;
    sampling.seed = uint64_t(i);
    onDevice.push_back(valueOf(Sampler::create(sampling, session.vocab())));
    onHost.push_back(valueOf(Sampler::create(sampling, session.vocab())));
  }
  std::vector<Ids> next(4, text);
  for (int step = 0; step < 6; ++step) {
    std::vector<std::vector<uint32_t>> masks(4, std::vector<uint32_t>(words));
    std::vector<int32_t> ids(4, -1);
    std::vector<std::vector<float>> logits(4);
    // The logits first, then the same tokens again.
    for (bool sampled : {false, true}) {
      std::vector<Append> parts;
      for (int i = 0; i < 4; ++i) {
        parts.push_back({i, next[i], 1, /*tentative=*/!sampled});
        if (!sampled) {
          for (uint32_t &word : masks[i])
            word = random() & random();
          for (std::vector<Sampler> *samplers : {&onDevice, &onHost}) {
            if (i < 2)
              valueOf((*samplers)[i].setMask(masks[i]));
            if (i > 0 && i < 3)
              (*samplers)[i].forbid(forbidden);
          }
        } else {
          parts.back().sampler = &onDevice[i];
          parts.back().sampled = &ids[i];
          valueOf(session.truncate(i, session.length(i) - int64_t(next[i].size())));
        }
      }
      valueOf(session.run(parts, [&](size_t part, int64_t, std::span<const float> row) {
        EXPECT_FALSE(sampled) << "logits of part " << part << " were copied";
        logits[part].assign(row.begin(), row.end());
        return ok();
      }));
    }
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(ids[i], valueOf(onHost[i].sample(logits[i]))) << "step " << step << ", row " << i;
      next[i] = {ids[i]};
    }
  }
}

// What no kernel for GPUs covers is refused when the plan is compiled.
TEST(GpuPlans, RefuseTwoExperts) {
  try {
    planOf(caseFolder("top-2") + "/config.json", "bf16", {"cuda:sm_90a"}, 1);
    FAIL() << "it was compiled";
  } catch (const std::runtime_error &error) {
    EXPECT_NE(std::string(error.what())
                  .find("a token has 2 experts, and the kernels for GPUs take one; leave out the "
                        "cuda targets"),
              std::string::npos)
        << error.what();
  }
}
