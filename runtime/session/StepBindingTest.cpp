// Which programs a session can run: what they declare is what it fills and reads.
#include "runtime/session/StepBinding.h"
#include "runtime/plan/SamplePlan.h"
#include "runtime/session/TestExecutor.h"

#include <gtest/gtest.h>

using namespace moe;

namespace {

constexpr uint32_t kVocab = 50, kHidden = 24;

DevicePlan plan(bool choosing = true) {
  return fakePlan({{"near", 64, 64, 64}, {"far", 0, 64, 64}}, kVocab, choosing);
}

TEST(StepBinding, FindsWhatIsDeclared) {
  auto binding = bindStep(plan(), kVocab, kHidden);
  ASSERT_TRUE(binding) << binding.error().message;
  EXPECT_EQ(binding->inputs, 7u);
  EXPECT_EQ(binding->positions, 0u);
  EXPECT_EQ(binding->tokens, 1u);
  EXPECT_EQ(binding->sequences, 2u);
  EXPECT_EQ(binding->rows, 3u);
  EXPECT_EQ(binding->sampling, 6u);
  ASSERT_EQ(binding->tables.size(), 2u);
  EXPECT_EQ(binding->tables[1].input, 5u);
  EXPECT_EQ(binding->tables[1].pool, 1u);
  EXPECT_EQ(binding->logits, 1u);
  EXPECT_EQ(binding->ids, 0u);

  DevicePlan less = plan(false);
  less.inputs.resize(2);
  less.outputs.push_back({"scores", ElementType::F32, {{Extent::Tokens}}}); // is left unread
  binding = bindStep(less, kVocab, kHidden);
  ASSERT_TRUE(binding) << binding.error().message;
  EXPECT_EQ(binding->rows, std::nullopt);
  EXPECT_EQ(binding->sampling, std::nullopt);
  EXPECT_EQ(binding->ids, std::nullopt);
  EXPECT_TRUE(binding->tables.empty());
}

TEST(StepBinding, FindsMasks) {
  EXPECT_EQ(bindStep(plan(), kVocab, kHidden)->masks, std::nullopt);
  auto binding = bindStep(fakePlan({{"near", 64, 64, 64}}, kVocab, true, true), kVocab, kHidden);
  ASSERT_TRUE(binding) << binding.error().message;
  EXPECT_EQ(binding->masks, 6u);
}

TEST(StepBinding, FindsHiddenStates) {
  DevicePlan given = plan();
  EXPECT_EQ(bindStep(given, kVocab, kHidden)->hidden, std::nullopt);
  given.outputs.push_back({"hidden", ElementType::F32, {{Extent::Rows}, {{}, kHidden}}});
  given.programs.push_back(given.programs[0]); // which does not give them
  given.programs[0].outputs.push_back(2);
  EXPECT_EQ(bindStep(given, kVocab, kHidden)->hidden, std::nullopt);
  given.programs.pop_back();
  auto binding = bindStep(given, kVocab, kHidden);
  ASSERT_TRUE(binding) << binding.error().message;
  EXPECT_EQ(binding->hidden, 2u);
}

// Only where all programs choose ids may any step ask for them.
TEST(StepBinding, NeedsOutputsOfAllPrograms) {
  DevicePlan some = plan();
  some.programs.push_back(some.programs[0]);
  some.programs[1].outputs = {1};
  auto binding = bindStep(some, kVocab, kHidden);
  ASSERT_TRUE(binding) << binding.error().message;
  EXPECT_EQ(binding->ids, std::nullopt);
  some.programs[1].outputs = {0};
  binding = bindStep(some, kVocab, kHidden);
  ASSERT_FALSE(binding);
  EXPECT_EQ(binding.error().message.find("not all of the plan's step programs have the output "
                                         "'logits', which this runtime reads; compile the plan"),
            0u)
      << binding.error().message;
}

TEST(StepBinding, RefusesWhatItDoesNotFillOrRead) {
  const auto expectRefused = [](auto change, const std::string &part) {
    DevicePlan changed = plan();
    change(changed);
    const auto binding = bindStep(changed, kVocab, kHidden);
    ASSERT_FALSE(binding) << part;
    EXPECT_EQ(binding.error().code, Code::InvalidPlan);
    EXPECT_NE(binding.error().message.find(part), std::string::npos) << binding.error().message;
    EXPECT_NE(binding.error().message.find("moec compile"), std::string::npos);
  };
  using P = DevicePlan;
  expectRefused(
      [](P &p) { p.inputs[3] = {"adapters", ElementType::U32, {{Extent::Rows}, {{}, 2}}}; },
      "the plan's step programs take the input 'adapters', u32[R, 2], and this runtime "
      "fills tokens, positions, sequences, rows, sampling, masks, image_rows, images and block "
      "tables: update");
  expectRefused(
      [](P &p) { p.inputs[3] = {"masks", ElementType::U32, {{Extent::Sequences}, {{}, 1}}}; },
      "have the input 'masks' as u32[S, 1], and this runtime as u32[S, 2]");
  expectRefused([](P &p) { p.inputs[5].pool.reset(); }, "take the input 'far_table', i32[S, P]");
  expectRefused([](P &p) { p.inputs[1].element = ElementType::U32; },
                "have the input 'tokens' as u32[T], and this runtime as i32[T]");
  expectRefused([](P &p) { p.inputs[0].dims = {{Extent::Rows}}; },
                "have the input 'positions' as i32[R], and this runtime as i32[T]");
  expectRefused([](P &p) { p.inputs[6].dims[1].count = 48; },
                "have the input 'sampling' as u8[R, 48], and this runtime as u8[R, 40]");
  expectRefused([](P &p) { p.inputs[4].dims.pop_back(); },
                "have the block table 'near_table' as i32[S], and this runtime as i32[S, P]");
  expectRefused([](P &p) { p.pools[1].pageTokens = 32; },
                "cache pool 'far' has pages of 32 positions, and this runtime fills pages of 64");
  expectRefused([](P &p) { p.outputs[1].dims[1].count = 49; },
                "have the output 'logits' as f32[R, 49], and this runtime as f32[R, 50]");
  expectRefused([](P &p) { p.outputs[1].name = "scores"; }, "the output 'logits', which");
  expectRefused([](P &p) { p.outputs[0].element = ElementType::U32; },
                "have the output 'ids' as u32[R], and this runtime as i32[R]");
  expectRefused(
      [](P &p) {
        p.outputs.push_back({"hidden", ElementType::F32, {{Extent::Rows}, {{}, kHidden + 1}}});
      },
      "have the output 'hidden' as f32[R, 25], and this runtime as f32[R, 24]");
  expectRefused([](P &p) { p.inputs.pop_back(); }, "choose 'ids' without the input 'sampling'");
}

TEST(StepBinding, FindsPictures) {
  const SessionModel model = fakeModel();
  const DevicePlan plan = visionPlan(model);
  auto binding = bindStep(plan, model.vocab, model.hiddenSize);
  ASSERT_TRUE(binding) << binding.error().message;
  EXPECT_EQ(plan.inputs[*binding->images].name, "images");
  EXPECT_EQ(plan.inputs[*binding->imageRows].name, "image_rows");
  EXPECT_EQ(plan.inputs[*binding->tiles].name, "tiles");
  EXPECT_EQ(plan.outputs[*binding->tileRows].name, "image_rows");
  EXPECT_EQ(binding->imageCapacity, model.maxStep);

  // Steps may take rows that nobody makes here, and never take any.
  DevicePlan steps = plan;
  steps.programs.pop_back();
  steps.inputs.pop_back();
  binding = bindStep(steps, model.vocab, model.hiddenSize);
  ASSERT_TRUE(binding) << binding.error().message;
  EXPECT_EQ(binding->tiles, std::nullopt);
}

TEST(StepBinding, RefusesPicturesThatStepsDoNotTake) {
  const SessionModel model = fakeModel();
  const auto expectRefused = [&](auto change, const std::string &part) {
    DevicePlan changed = visionPlan(model);
    change(changed);
    const auto binding = bindStep(changed, model.vocab, model.hiddenSize);
    ASSERT_FALSE(binding) << part;
    EXPECT_EQ(binding.error().code, Code::InvalidPlan);
    EXPECT_NE(binding.error().message.find(part), std::string::npos) << binding.error().message;
  };
  using P = DevicePlan;
  const uint32_t images = 6, rows = 7;
  expectRefused([&](P &p) { p.inputs[images].dims[0].count = 31; }, // fewer than tokens of a step
                "have the input 'images' as f32[31, 24], and this runtime as f32[32, 24]");
  expectRefused([&](P &p) { p.inputs[images].dims[1].count = 23; }, "as f32[32, 23], and this");
  expectRefused([&](P &p) { p.inputs[images].dims[0] = {Extent::Tokens}; }, "as f32[T, 24], and");
  expectRefused([&](P &p) { p.inputs[images].element = ElementType::BF16; }, "as bf16[32, 24]");
  expectRefused([&](P &p) { p.inputs[rows].element = ElementType::U32; },
                "have the input 'image_rows' as u32[T], and this runtime as i32[T]");
  const std::string both =
      "not all of the plan's step programs take both 'images' and 'image_rows'";
  expectRefused(
      [&](P &p) { p.inputs[rows] = {"masks", ElementType::U32, {{Extent::Sequences}, {{}, 2}}}; },
      both);
  expectRefused(
      [](P &p) {
        p.programs.push_back(p.programs[0]);
        p.programs.back().inputs.pop_back();
      },
      both);
  expectRefused(
      [&](P &p) {
        p.inputs[images] = {"masks", ElementType::U32, {{Extent::Sequences}, {{}, 2}}};
        p.inputs[rows] = {"positions", ElementType::I32, {{Extent::Tokens}}};
      },
      "do not take the rows that its vision programs make");
}

// Before anything is allocated.
TEST(StepBinding, IsAskedWhenASessionIsMade) {
  fb::PlanT from = samplePlan();
  for (auto &program : from.programs)
    program->inputs.push_back(makeIds("adapters", fb::Extent::Tokens));
  FileBytes file = samplePlanFile(std::move(from));
  auto opened = Plan::open(file.span());
  ASSERT_TRUE(opened) << opened.error().message;
  SessionOptions options;
  options.device = "null";
  auto session = Session::create(*opened, options);
  ASSERT_FALSE(session);
  EXPECT_NE(session.error().message.find("take the input 'adapters', i32[T], and this runtime"),
            std::string::npos)
      << session.error().message;
}

} // namespace
