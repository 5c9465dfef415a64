#include "runtime/session/PlanText.h"

#include "runtime/plan/SamplePlan.h"

#include <gtest/gtest.h>

using namespace moe;

namespace {

std::optional<ChatFormat> formatOf(const fb::PlanT &plan) {
  FileBytes file = samplePlanFile(plan);
  const auto opened = Plan::open(file.span());
  EXPECT_TRUE(opened) << opened.error().message;
  return planChatFormat(*opened);
}

} // namespace

TEST(PlanText, chatFormatFieldByField) {
  fb::PlanT plan = samplePlan();
  plan.chat->bos = "<|90|>";
  plan.chat->header_start = "<|91|>";
  plan.chat->header_end = "<|92|>\n";
  plan.chat->turn_end = "<|93|>";
  plan.chat->user = "u";
  plan.chat->assistant = "a";
  plan.chat->system = "s";
  plan.chat->stop_tokens = {91, 92};
  plan.chat->tools = "pythonic";
  const ChatFormat expected{"<|90|>", "<|91|>", "<|92|>\n", "<|93|>",  "u",
                            "a",      "s",      {91, 92},   "pythonic"};
  EXPECT_EQ(formatOf(plan), expected);
  plan.chat->tools.clear(); // which a plan of format 3.0 does not have
  EXPECT_EQ(formatOf(plan)->tools, "");
  plan.chat.reset();
  EXPECT_EQ(formatOf(plan), std::nullopt);
}

TEST(PlanText, samplingFieldByField) {
  fb::PlanT plan = samplePlan();
  const auto samplingOf = [&] {
    FileBytes file = samplePlanFile(plan);
    const auto opened = Plan::open(file.span());
    EXPECT_TRUE(opened) << opened.error().message;
    return planSampling(*opened);
  };
  plan.sampling->temperature = 0.25;
  plan.sampling->top_k = 40;
  plan.sampling->top_p = 0.5;
  plan.sampling->repetition_penalty = 1.25;
  auto sampling = samplingOf();
  ASSERT_TRUE(sampling);
  EXPECT_EQ(sampling->temperature, 0.25);
  EXPECT_EQ(sampling->topK, 40);
  EXPECT_EQ(sampling->topP, 0.5);
  EXPECT_EQ(sampling->repetitionPenalty, 1.25);
  *plan.sampling = fb::SamplingT();
  sampling = samplingOf();
  ASSERT_TRUE(sampling);
  EXPECT_EQ(sampling->temperature, 1);
  EXPECT_EQ(sampling->topP, 1);
  plan.sampling.reset(); // as in plans before format 3.2
  EXPECT_FALSE(samplingOf());
}
