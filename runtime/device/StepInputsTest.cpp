// Where inputs lie, and what of a step is copied to there.
#include "runtime/device/StepInputs.h"

#include <gtest/gtest.h>

using namespace moe;

namespace {

using V = std::vector<int32_t>;

constexpr uint64_t kUnit = StepInputs::alignment;

enum Input : uint32_t { Ids, Far, Wanted, Records, Near, Other };

// Two programs: one token, and 100 tokens with 3 rows.
DevicePlan plan() {
  using E = Extent;
  DevicePlan plan;
  plan.inputs = {{"ids", ElementType::I32, {{E::Tokens}}},
                 {"far", ElementType::I32, {{E::Sequences}, {E::Pages}}, 1},
                 {"wanted", ElementType::I32, {{E::Rows}}},
                 {"records", ElementType::U8, {{E::Rows}, {E::Constant, 40}}},
                 {"near", ElementType::I32, {{E::Sequences}, {E::Pages}}, 0},
                 {"other", ElementType::BF16, {{E::Tokens}, {E::Constant, 2}}}};
  plan.programs.resize(2);
  plan.programs[0].tokens = plan.programs[0].rows = 1;
  plan.programs[0].inputs = {Ids, Far};
  plan.programs[1].tokens = 100;
  plan.programs[1].rows = 3;
  plan.programs[1].inputs = {Ids, Other, Wanted, Near, Far, Records};
  return plan;
}

class StepInputsTest : public testing::Test {
protected:
  const int32_t *at(size_t program, Input input) const {
    return reinterpret_cast<const int32_t *>(block.data() + *inputs.offsetOf(program, input));
  }
  template <typename T> void set(Input input, const std::vector<T> &values) {
    brought[input] = std::as_bytes(std::span(values));
  }

  const ExecutorOptions options{2, 70, {8, 8}};
  StepInputs inputs{plan(), options, 16};
  std::vector<std::byte> block = std::vector<std::byte>(inputs.blockBytes());
  std::vector<std::span<const std::byte>> brought{6};
};

TEST_F(StepInputsTest, PacksWhatAProgramDeclares) {
  EXPECT_EQ(inputs.offsetOf(0, Ids), kUnit); // behind the header
  EXPECT_EQ(inputs.packedBytes(0), 2 * kUnit);
  for (Input input : {Other, Wanted, Records, Near, Input(6)})
    EXPECT_EQ(inputs.offsetOf(0, input), std::nullopt);
  EXPECT_EQ(inputs.offsetOf(1, Ids), kUnit);
  EXPECT_EQ(inputs.offsetOf(1, Other), 3 * kUnit); // 100 tokens take 400 bytes
  EXPECT_EQ(inputs.offsetOf(1, Wanted), 5 * kUnit);
  EXPECT_EQ(inputs.offsetOf(1, Records), 6 * kUnit);
  EXPECT_EQ(inputs.packedBytes(1), 7 * kUnit);
  // What stays lies behind the larger program, at one place for both: 2 x 70 pages take 560 bytes.
  EXPECT_EQ(inputs.offsetOf(0, Far), 7 * kUnit);
  EXPECT_EQ(inputs.offsetOf(1, Far), 7 * kUnit);
  EXPECT_EQ(inputs.offsetOf(1, Near), 10 * kUnit);
  EXPECT_EQ(inputs.blockBytes(), 13 * kUnit);
}

TEST_F(StepInputsTest, CopiesOfWhatStaysThePartsThatAreUsed) {
  V far(140), near(140);
  for (int32_t i = 0; i < 140; ++i) {
    far[size_t(i)] = 1000 + i;
    near[size_t(i)] = 2000 + i;
  }
  const V ids{5, 6, 7}, other{63, 64, 200}, wanted{1};
  const std::vector<std::byte> records(40, std::byte(9));
  set(Ids, ids), set(Other, other), set(Wanted, wanted), set(Records, records);
  set(Far, far), set(Near, near);
  // The first two pages of one sequence, four of another.
  const std::vector<TensorPart> used{{Far, 0, 8}, {Near, 0, 8}, {Far, 280, 16}, {Near, 280, 16}};
  const Step step{3, 1, brought, used, {}};
  ASSERT_TRUE(inputs.check(step, 1));
  const auto filled = inputs.fill(step, 1, block.data());
  ASSERT_EQ(filled.size(), 1u); // the tables lie near together
  const StepInputs::Range changed = filled[0];
  EXPECT_EQ(V(at(1, Ids), at(1, Ids) + 3), ids);
  EXPECT_EQ(V(at(1, Other), at(1, Other) + 3), other);
  EXPECT_EQ(at(1, Wanted)[0], 1);
  EXPECT_EQ(at(1, Records)[9], 0x09090909);
  EXPECT_EQ(at(1, Records)[10], 0);
  for (auto [input, from] : {std::pair(Far, &far), std::pair(Near, &near)}) {
    V expected(140);
    for (size_t i : {0, 1, 70, 71, 72, 73})
      expected[i] = (*from)[i];
    EXPECT_EQ(V(at(1, input), at(1, input) + 140), expected);
  }
  EXPECT_EQ(changed.begin, 7 * kUnit);
  EXPECT_EQ(changed.end, 10 * kUnit + 74 * sizeof(int32_t));

  // The same again is no change, in either program; another page is.
  set(Ids, wanted);
  const std::vector<TensorPart> first{{Far, 0, 4}};
  const Step small{1, 0, brought, first, {}};
  ASSERT_TRUE(inputs.check(small, 0));
  EXPECT_TRUE(inputs.fill(small, 0, block.data()).empty());
  EXPECT_EQ(at(0, Ids)[0], 1);
  set(Ids, ids);
  EXPECT_TRUE(inputs.fill(step, 1, block.data()).empty());
  far[71] = 9;
  const auto changedPages = inputs.fill(step, 1, block.data());
  ASSERT_EQ(changedPages.size(), 1u);
  const StepInputs::Range page = changedPages[0];
  EXPECT_EQ(page.begin, 7 * kUnit + 70 * sizeof(int32_t));
  EXPECT_EQ(page.end, 7 * kUnit + 74 * sizeof(int32_t));
  EXPECT_EQ(at(1, Far)[71], 9);
}

// Block tables and masks of many sequences: no step copies what lies between their parts.
TEST(StepInputs, TellsRangesThatAreFarApart) {
  using E = Extent;
  DevicePlan plan;
  plan.inputs = {{"table", ElementType::I32, {{E::Sequences}, {E::Pages}}, 0},
                 {"masks", ElementType::U32, {{E::Sequences}, {E::Constant, 6314}}},
                 {"more", ElementType::U32, {{E::Sequences}, {E::Constant, 16}}}};
  plan.programs.resize(1);
  plan.programs[0].tokens = plan.programs[0].rows = 1;
  plan.programs[0].inputs = {0, 1, 2};
  const size_t sequences = 64, pages = 1024;
  StepInputs inputs(plan, {int32_t(sequences), int32_t(pages), {8}}, 16);
  const V table(sequences * pages, 1), masks(sequences * 6314, 2), more(sequences * 16, 3);
  const std::vector<std::span<const std::byte>> brought{std::as_bytes(std::span(table)),
                                                        std::as_bytes(std::span(masks)),
                                                        std::as_bytes(std::span(more))};
  std::vector<std::byte> block(inputs.blockBytes());
  const auto rangesOf = [&](const std::vector<TensorPart> &used) {
    const Step step{1, 0, brought, used, {}};
    EXPECT_TRUE(inputs.check(step, 0));
    std::vector<std::pair<uint64_t, uint64_t>> ranges; // from the first input on, and lengths
    for (const StepInputs::Range &range : inputs.fill(step, 0, block.data()))
      ranges.push_back({range.begin - *inputs.offsetOf(0, 0), range.end - range.begin});
    return ranges;
  };
  using Ranges = std::vector<std::pair<uint64_t, uint64_t>>;
  const uint64_t tableBytes = sequences * pages * 4, maskBytes = 6314 * 4;
  // The first sequence's table and two masks, told in any order.
  EXPECT_EQ(rangesOf({{1, 0, 2 * maskBytes}, {0, 0, 8}}),
            (Ranges{{0, 8}, {tableBytes, 2 * maskBytes}}));
  EXPECT_EQ(rangesOf({{1, 0, 2 * maskBytes}, {0, 0, 8}}), Ranges{});
  // The last one's is next to the masks.
  const uint64_t last = (sequences - 1) * pages * 4;
  EXPECT_EQ(rangesOf({{0, last, 4}, {1, 2 * maskBytes, 4}, {2, 4, 4}}),
            (Ranges{{last, tableBytes + 2 * maskBytes + 4 - last},
                    {*inputs.offsetOf(0, 2) - *inputs.offsetOf(0, 0) + 4, 4}}));
}

} // namespace
