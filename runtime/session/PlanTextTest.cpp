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
