// Where inputs lie, and what of a step is copied to there.
#include "runtime/device/StepInputs.h"

#include <gtest/gtest.h>

using namespace moe;

namespace {

using V = std::vector<int32_t>;

constexpr uint64_t kUnit = StepInputs::alignment;

// Two programs: one token, and 100 tokens with 3 rows whose sampling is read too.
DevicePlan plan() {
  const auto in = [](InputName name) { return Operand{OperandKind::Input, uint32_t(name)}; };
  DevicePlan plan;
  plan.vocab = 8;
  plan.pools = {{"chunked", 128, 64, 64}, {"global", 0, 64, 64}};
  plan.programs = {{1, 1, 0, 0, {{0, {in(InputName::Tokens), in(InputName::GlobalTable)}}}},
                   {100,
                    3,
                    0,
                    0,
                    {{0, {in(InputName::Tokens), in(InputName::Positions)}},
                     {1, {in(InputName::Rows), in(InputName::Sampling)}},
                     {2, {in(InputName::ChunkedTable), in(InputName::Tokens)}}}}};
  return plan;
}

class StepInputsTest : public testing::Test {
protected:
  const int32_t *at(size_t program, InputName name) const {
    return reinterpret_cast<const int32_t *>(block.data() +
                                             *inputs.offsetOf(program, uint32_t(name)));
  }

  const ExecutorOptions options{2, 70, {8, 8}};
  const StepInputs inputs{plan(), options, 16};
  std::vector<std::byte> block = std::vector<std::byte>(inputs.blockBytes());
};

TEST_F(StepInputsTest, PacksWhatAProgramReads) {
  const auto offset = [&](size_t program, InputName name) {
    return inputs.offsetOf(program, uint32_t(name));
  };
  EXPECT_EQ(offset(0, InputName::Tokens), kUnit); // behind the header
  EXPECT_EQ(inputs.packedBytes(0), 2 * kUnit);
  EXPECT_EQ(offset(0, InputName::Positions), std::nullopt);
  EXPECT_EQ(offset(0, InputName::Sampling), std::nullopt);
  EXPECT_EQ(inputs.offsetOf(0, 7), std::nullopt);
  EXPECT_EQ(offset(1, InputName::Tokens), kUnit);
  EXPECT_EQ(offset(1, InputName::Positions), 3 * kUnit); // 100 tokens take 400 bytes
  EXPECT_EQ(offset(1, InputName::Rows), 5 * kUnit);
  EXPECT_EQ(offset(1, InputName::Sampling), 6 * kUnit);
  EXPECT_EQ(inputs.packedBytes(1), 7 * kUnit);
  // Tables lie behind the larger program, at the same place for both: 2 x 70 pages take 560 bytes.
  for (size_t program : {0, 1}) {
    EXPECT_EQ(offset(program, InputName::GlobalTable), 7 * kUnit);
    EXPECT_EQ(offset(program, InputName::ChunkedTable), 10 * kUnit);
  }
  EXPECT_EQ(inputs.blockBytes(), 13 * kUnit);
}

TEST_F(StepInputsTest, CopiesTablesUpToTheLastToken) {
  V global(140), chunked(140);
  for (int32_t i = 0; i < 140; ++i) {
    global[size_t(i)] = 1000 + i;
    chunked[size_t(i)] = 2000 + i;
  }
  const V tokens{5, 6, 7}, positions{63, 64, 200}, sequences{0, 0, 1}, rows{1};
  const Step step{tokens, positions, sequences, rows, {chunked, global}};
  const StepInputs::Range changed = inputs.fill(step, 1, block.data());
  EXPECT_EQ(V(at(1, InputName::Tokens), at(1, InputName::Tokens) + 3), tokens);
  EXPECT_EQ(V(at(1, InputName::Positions), at(1, InputName::Positions) + 3), positions);
  EXPECT_EQ(at(1, InputName::Rows)[0], 1);
  for (auto [name, from] :
       {std::pair(InputName::GlobalTable, &global), std::pair(InputName::ChunkedTable, &chunked)}) {
    V expected(140);
    for (size_t i : {0, 1, 70, 71, 72, 73}) // positions 64 and 200 are on pages 1 and 3
      expected[i] = (*from)[i];
    EXPECT_EQ(V(at(1, name), at(1, name) + 140), expected);
  }
  EXPECT_EQ(changed.begin, 7 * kUnit);
  EXPECT_EQ(changed.end, 10 * kUnit + 74 * sizeof(int32_t));

  // The same pages again are no change, in either program; another page is.
  const V one{5}, position{3}, first{0};
  EXPECT_TRUE(
      inputs.fill({one, position, first, first, {chunked, global}}, 0, block.data()).empty());
  EXPECT_TRUE(inputs.fill(step, 1, block.data()).empty());
  global[71] = 9;
  const StepInputs::Range page = inputs.fill(step, 1, block.data());
  EXPECT_EQ(page.begin, 7 * kUnit + 70 * sizeof(int32_t));
  EXPECT_EQ(page.end, 7 * kUnit + 74 * sizeof(int32_t));
  EXPECT_EQ(at(1, InputName::GlobalTable)[71], 9);
}

TEST_F(StepInputsTest, TellsWhatIsWantedOfARow) {
  const V tokens{1, 2, 3}, rows{0, 1, 2}, sequences{0, 0, 0}, tables(140);
  const std::vector<RowOutput> outputs{
      {true, false, {}}, {false, true, {}}, {false, true, {2.5f, 3, 100, 20, 4000}}};
  (void)inputs.fill({tokens, rows, sequences, rows, {tables, tables}, outputs}, 1, block.data());
  const auto *sampling = reinterpret_cast<const RowSampling *>(at(1, InputName::Sampling));
  EXPECT_EQ(sampling[0].flags, RowSampling::writesLogits);
  EXPECT_EQ(sampling[1].flags, 0u); // its largest logit alone
  EXPECT_EQ(sampling[2].flags, RowSampling::writesLogits | RowSampling::draws);
  EXPECT_EQ(sampling[2].scale, 2.5f);
  EXPECT_EQ(sampling[2].topK, 3);
  EXPECT_EQ(sampling[2].random, 100u);
  EXPECT_EQ(sampling[2].topP, 20u);
  EXPECT_EQ(sampling[2].minWeight, 4000u);
}

} // namespace
