// What every device must do, on the small plan of TestPlan.h.
#include "runtime/device/Devices.h"
#include "runtime/device/TestDeviceSuite.h"

#include <algorithm>
#include <thread>

namespace moe {
namespace {

using namespace testplan;
using V = std::vector<int32_t>;

TEST_P(DeviceSuite, HasTheNameItIsOpenedBy) {
  EXPECT_EQ(device->name(), GetParam().name);
  EXPECT_FALSE(device->planDevice().empty());
  EXPECT_TRUE(device->supports(prepared(handMadePlan())));
}

TEST_P(DeviceSuite, TellsTheLargestStep) {
  auto executor = create(prepared(handMadePlan()));
  ASSERT_TRUE(executor) << executor.error().message;
  EXPECT_EQ((*executor)->maxTokens(), 16);
  EXPECT_EQ((*executor)->maxRows(), 4);
  EXPECT_FALSE((*executor)->description().empty());
}

TEST_P(DeviceSuite, RefusesOptionsThatDoNotFitThePlan) {
  const DevicePlan plan = prepared(handMadePlan());
  const std::string words = "at least one sequence and page, and a size for each cache pool";
  for (const ExecutorOptions &options :
       {ExecutorOptions{2, 4, {8}}, ExecutorOptions{2, 4, {8, 8, 8}}, ExecutorOptions{0, 4, {8, 8}},
        ExecutorOptions{2, 0, {8, 8}}})
    expectRefused(plan, options, Code::InvalidArgument, words);
  for (int64_t pages : {int64_t(-1), int64_t(1) << 60})
    expectRefused(plan, {2, 4, {pages, 8}}, Code::ResourceExhausted, "KV cache");
}

TEST_P(DeviceSuite, RefusesAPlanWithoutPrograms) {
  DevicePlan plan = prepared(handMadePlan());
  plan.programs.clear();
  expectRefused(plan, executorOptions, Code::InvalidPlan,
                "no step programs for device " + device->planDevice());
}

TEST_P(DeviceSuite, GivesARowForEachThatIsWanted) {
  auto executor = create(prepared(handMadePlan()));
  ASSERT_TRUE(executor) << executor.error().message;
  const Tables tables;
  for (const V &rows : {V{}, V{0}, V{2, 0}, V{1, 1, 1, 2}}) {
    auto logits = run(**executor, tables, {1, 2, 3}, {0, 1, 2}, {0, 0, 0}, rows);
    ASSERT_TRUE(logits) << logits.error().message;
    EXPECT_EQ(logits->size(), rows.size() * size_t(kVocab));
  }
}

TEST_P(DeviceSuite, RefusesAStepLargerThanEveryProgram) {
  auto executor = create(prepared(handMadePlan()));
  ASSERT_TRUE(executor) << executor.error().message;
  const Tables tables;
  const V many(17), five(5);
  EXPECT_TRUE(run(**executor, tables, V(16), V(16), V(16), V(4)));
  EXPECT_EQ(run(**executor, tables, many, many, many, V{0}).error().message,
            "a step of 17 tokens and 1 rows of logits is larger than every program's");
  EXPECT_EQ(run(**executor, tables, five, five, five, five).error().message,
            "a step of 5 tokens and 5 rows of logits is larger than every program's");
}

TEST_P(DeviceSuite, RefusesStepsThatContradictThemselves) {
  auto executor = create(prepared(handMadePlan()));
  ASSERT_TRUE(executor) << executor.error().message;
  const V table(8, 0), one{0}, two{0, 1}, nine{9}, minus{-1}, far{256}, none;
  auto refused = [&](const Step &step) {
    auto result = (*executor)->run(step);
    return !result && result.error().code == Code::InvalidArgument;
  };
  EXPECT_FALSE(refused({one, one, one, one, {table, table}}));
  EXPECT_TRUE(refused({none, none, none, none, {table, table}}));
  EXPECT_TRUE(refused({one, two, one, one, {table, table}}));
  EXPECT_TRUE(refused({one, one, two, one, {table, table}}));
  EXPECT_TRUE(refused({one, one, nine, one, {table, table}}));
  EXPECT_TRUE(refused({one, one, minus, one, {table, table}}));
  EXPECT_TRUE(refused({nine, one, one, one, {table, table}}));
  EXPECT_TRUE(refused({minus, one, one, one, {table, table}}));
  EXPECT_TRUE(refused({one, minus, one, one, {table, table}}));
  EXPECT_TRUE(refused({one, far, one, one, {table, table}}));
  EXPECT_TRUE(refused({one, one, one, nine, {table, table}}));
  EXPECT_TRUE(refused({one, one, one, minus, {table, table}}));
  EXPECT_TRUE(refused({one, one, one, one, {table}}));
  EXPECT_TRUE(refused({one, one, one, one, {one, table}}));
  const std::vector<RowOutput> logits(1), more(2), id{{false, true, {}}};
  EXPECT_FALSE(refused({one, one, one, one, {table, table}, logits}));
  EXPECT_TRUE(refused({one, one, one, one, {table, table}, more}));
  EXPECT_TRUE(refused({one, one, one, one, {table, table}, id})); // which the plan does not choose
  EXPECT_FALSE(refused({one, one, one, one, {table, table}}));    // none of them did harm
}

TEST_P(DeviceSuite, SamplesWhereEveryProgramChoosesIds) {
  auto without = create(prepared(handMadePlan()));
  ASSERT_TRUE(without) << without.error().message;
  EXPECT_FALSE((*without)->samples());
  DevicePlan plan = prepared(choosingPlan());
  auto with = create(plan);
  ASSERT_TRUE(with) << with.error().message;
  EXPECT_TRUE((*with)->samples());
  const V zero{0}, table(8, 0);
  const std::vector<RowOutput> id{{false, true, {}}}, cold{{false, true, {-1.f}}},
      few{{false, true, {1.f, -1}}};
  auto result = (*with)->run({zero, zero, zero, zero, {table, table}, id});
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->ids.size(), 1u);
  EXPECT_FALSE((*with)->run({zero, zero, zero, zero, {table, table}, cold}));
  EXPECT_FALSE((*with)->run({zero, zero, zero, zero, {table, table}, few}));
  plan.programs[1].calls.pop_back();
  auto some = create(plan);
  ASSERT_TRUE(some) << some.error().message;
  EXPECT_FALSE((*some)->samples());
}

// Tokens, positions, sequences, tables, rows, weights and the cache reach kernels as they were
// given; the arena carries values between kernels, and counters are zero.
TEST_P(KernelSuite, RunsRaggedSteps) {
  auto executor = create(prepared(handMadePlan()));
  ASSERT_TRUE(executor) << executor.error().message;
  Tables tables;
  runRaggedSteps(**executor, tables);
  for (int i = 0; i < 20; ++i)
    EXPECT_EQ(*run(**executor, tables, {0}, {6}, {0}, {0}), expected({{0, 14}}));
}

// Each program has an embedding of its own here.
TEST_P(KernelSuite, RunsTheSmallestProgramThatFits) {
  DevicePlan plan = prepared(handMadePlan());
  std::vector<float> weights(3 * 64);
  for (size_t i = 0; i < 3; ++i) {
    std::fill_n(weights.begin() + int64_t(64 * i), 8, 100.f * float(plan.programs[i].tokens));
    plan.programs[i].calls[0].operands[1].offset = 64 * i * sizeof(float);
  }
  plan.sections[1] = std::as_bytes(std::span(weights));
  std::swap(plan.programs[0], plan.programs[2]); // their order is no matter
  auto executor = create(plan);
  ASSERT_TRUE(executor) << executor.error().message;
  const Tables tables;
  const auto program = [&](size_t tokens, size_t rows) {
    V positions;
    for (size_t i = 0; i < tokens; ++i)
      positions.push_back(int32_t(i));
    auto logits = run(**executor, tables, V(tokens), positions, V(tokens), V(rows));
    EXPECT_TRUE(logits) << logits.error().message;
    return logits ? logits->front() / 100 : 0;
  };
  EXPECT_EQ(program(1, 1), 1);
  EXPECT_EQ(program(2, 1), 4);
  EXPECT_EQ(program(4, 4), 4);
  EXPECT_EQ(program(5, 1), 16);
  EXPECT_EQ(program(1, 2), 4); // the first has room for one row
}

TEST_P(KernelSuite, ResultsStayUntilTheNextRun) {
  const DevicePlan plan = prepared(handMadePlan());
  auto first = create(plan), second = create(plan);
  ASSERT_TRUE(first && second);
  const Tables tables;
  const V tokens{3}, zero{0};
  auto result = (*first)->run({tokens, zero, zero, zero, {tables.chunked, tables.global}});
  ASSERT_TRUE(result);
  EXPECT_EQ(*run(**second, tables, {7}, {0}, {0}, {0}), expected({{7, 7}}));
  EXPECT_FALSE(run(**first, tables, {9}, {0}, {0}, {0})); // which is no run
  EXPECT_EQ(Logits(result->logits.begin(), result->logits.end()), expected({{3, 3}}));
}

TEST_P(KernelSuite, ExecutorsShareNothing) {
  const DevicePlan plan = prepared(handMadePlan());
  auto first = create(plan), second = create(plan);
  ASSERT_TRUE(first && second);
  Tables tables, others;
  others.global = {1, 6, -1, -1, 0, -1, -1, -1};
  ASSERT_TRUE(run(**first, tables, {1, 2}, {0, 1}, {0, 0}, {}));
  ASSERT_TRUE(run(**second, others, {5, 6}, {0, 1}, {0, 0}, {}));
  EXPECT_EQ(*run(**first, tables, {3}, {2}, {0}, {0}), expected({{3, 6}}));
  EXPECT_EQ(*run(**second, others, {7}, {2}, {0}, {0}), expected({{7, 18}}));
  const auto work = [](Executor &executor, const Tables &tables, int32_t token) {
    int32_t sum = 0;
    for (int32_t position = 0; position < 20; ++position) {
      sum += token;
      auto logits = run(executor, tables, {token}, {position}, {1}, {0});
      ASSERT_TRUE(logits) << logits.error().message;
      EXPECT_EQ(*logits, expected({{token, sum}})) << position;
    }
  };
  std::thread beside([&] { work(**first, tables, 2); }); // both at once
  work(**second, others, 4);
  beside.join();
  first->reset(); // one that goes takes nothing from the other
  EXPECT_EQ(*run(**second, others, {1}, {3}, {0}, {0}), expected({{1, 19}}));
}

TEST_P(KernelSuite, ChoosesTheIdsThatAreWanted) {
  auto executor = create(prepared(choosingPlan()));
  ASSERT_TRUE(executor) << executor.error().message;
  const Tables tables;
  const V tokens{1, 2, 3, 4}, positions{0, 1, 2, 3}, sequences(4), rows{0, 1, 2, 3};
  const RowOutput logits, id{false, true, {}}, drawn{false, true, {2.5f, 3, 100, 20, 4000}},
      both{true, true, {}};
  const std::vector<RowOutput> outputs{logits, id, drawn, both};
  auto result = (*executor)->run(
      {tokens, positions, sequences, rows, {tables.chunked, tables.global}, outputs});
  ASSERT_TRUE(result) << result.error().message;
  ASSERT_EQ(result->ids.size(), 4u);
  EXPECT_EQ(result->ids[1], 1000);
  EXPECT_EQ(result->ids[2], 4125);
  EXPECT_EQ(result->ids[3], 1001);
  const Logits all = expected({{1, 1}, {2, 3}, {3, 6}, {4, 10}});
  ASSERT_EQ(result->logits.size(), all.size());
  for (size_t row : {0, 3})
    for (size_t v = 0; v < size_t(kVocab); ++v)
      EXPECT_EQ(result->logits[row * kVocab + v], all[row * kVocab + v]);
}

TEST_P(KernelSuite, SaysWhatMemoryItLacks) {
  expectRefused(prepared(handMadePlan()), {2, 4, {int64_t(1) << 44, 8}}, Code::ResourceExhausted,
                "KV pages of the pool \"chunked\"");
}

TEST_P(KernelSuite, RefusesAPlanWithoutAnImageForIt) {
  const std::vector<std::string> planDevices{device->planDevice()};
  auto opened = openDevice(GetParam().name, planDevices, {});
  ASSERT_TRUE(opened) << opened.error().message;
  auto executor = (*opened)->createExecutor(handMadePlan(), executorOptions);
  ASSERT_FALSE(executor);
  EXPECT_EQ(executor.error().code, Code::Unavailable) << executor.error().message;
}

TEST_P(KernelSuite, RefusesCallsOfWhatDoesNotExist) {
  const auto refused = [&](auto change, const std::string &part) {
    DevicePlan plan = prepared(handMadePlan());
    change(plan.programs[1].calls);
    expectRefused(plan, executorOptions, Code::InvalidPlan, part);
  };
  using Calls = std::vector<Call>;
  refused([](Calls &calls) { calls[0].kernel = 1; }, "has no kernel number 1"); // in no image
  refused([](Calls &calls) { calls[0].kernel = 9; }, "has no kernel number 9");
  const std::string words = "operand that does not exist";
  refused([](Calls &calls) { calls[0].operands[0].index = 7; }, words); // an input
  refused([](Calls &calls) { calls[0].operands[2].offset = 4096; }, words);
  refused([](Calls &calls) { calls[1].operands[4].index = 2; }, words); // a pool
  refused([](Calls &calls) { calls[2].operands[7].offset = 512; }, words);
}

} // namespace
} // namespace moe
