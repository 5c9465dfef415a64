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

TEST_P(DeviceSuite, ChoosesAmongProgramsOfTheKindOfAStep) {
  auto text = create(prepared(handMadePlan())), vision = create(prepared(visionPlan()));
  ASSERT_TRUE(text && vision);
  EXPECT_EQ((*text)->maxTiles(), 0);
  EXPECT_EQ((*vision)->maxTiles(), 6);
  EXPECT_EQ((*vision)->maxTokens(), 16);
  EXPECT_EQ((*vision)->maxRows(), 4);
  EXPECT_TRUE(runTiles(**vision, V(6)));
  EXPECT_EQ(runTiles(**vision, V(7)).error().message,
            "7 tiles of pictures are to be run at once, and the plan's programs take 6");
  TestStep step({}, {1}, {0}, {0}, {0});
  Step other = step;
  other.kind = ProgramKind::Vision;
  EXPECT_EQ((*text)->run(other).error().message,
            "1 tiles of pictures are to be run at once, and the plan has no program for them on "
            "this device");
  step.inputs.emplace_back(); // tiles, which a step does not look at
  EXPECT_TRUE((*vision)->run(step));
  // What is of one kind is not wanted, or short, in another.
  step.wanted = {{ImageRowsOut, 0, 4}};
  EXPECT_FALSE((*vision)->run(step));
}

TEST_P(DeviceSuite, RefusesAPlanWithoutSteps) {
  DevicePlan plan = prepared(visionPlan());
  plan.programs.erase(plan.programs.begin(), plan.programs.begin() + 3);
  expectRefused(plan, executorOptions, Code::InvalidPlan,
                "no step programs for device " + device->planDevice());
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
            "a step of 17 tokens and 1 rows is larger than every program's");
  EXPECT_EQ(run(**executor, tables, five, five, five, five).error().message,
            "a step of 5 tokens and 5 rows is larger than every program's");
}

TEST_P(DeviceSuite, RefusesStepsOfOtherSizesThanDeclared) {
  auto executor = create(prepared(handMadePlan()));
  ASSERT_TRUE(executor) << executor.error().message;
  const Tables tables;
  const auto refused = [&](auto change, const std::string &part) {
    TestStep step(tables, {1, 2}, {0, 1}, {0, 0}, {1});
    change(step);
    const Status run = (*executor)->run(step);
    ASSERT_FALSE(run) << part;
    EXPECT_EQ(run.error().code, Code::InvalidArgument);
    EXPECT_NE(run.error().message.find(part), std::string::npos) << run.error().message;
  };
  using S = TestStep;
  refused([](S &s) { s.tokens.clear(); }, "a step has 0 tokens and 1 rows");
  refused([](S &s) { s.inputs.pop_back(); }, "a step has 4 inputs, and the plan's programs 5");
  refused([](S &s) { s.inputs[Tokens] = s.inputs[Tokens].first(4); },
          "input 'tokens' of a step has 4 bytes, expected 8");
  refused([](S &s) { s.inputs[Positions] = s.inputs[Table]; },
          "input 'positions' of a step has 32 bytes, expected 8");
  refused([](S &s) { s.inputs[Rows] = {}; }, "input 'rows' of a step has 0 bytes, expected 4");
  refused([](S &s) { s.inputs[Table] = s.inputs[Table].first(16); },
          "input 'table' of a step has 16 bytes, expected 32");
  for (TensorPart part :
       {TensorPart{Table, 0, 33}, TensorPart{Table, 33, 0}, TensorPart{Table, 4, ~uint64_t(0)},
        TensorPart{Tokens, 0, 4}, TensorPart{99, 0, 4}})
    refused([&](S &s) { s.used = {part}; }, "which does not have them from step to step");
  for (TensorPart part : {TensorPart{LogitsOut, 0, 33}, TensorPart{LogitsOut, 33, 0},
                          TensorPart{LogitsOut, 4, ~uint64_t(0)}})
    refused([&](S &s) { s.wanted = {part}; }, "of output 'logits', which has 32");
  for (uint32_t output : {1, 99})
    refused([&](S &s) { s.wanted = {{output, 0, 4}}; }, "which its program does not write");
  EXPECT_TRUE(run(**executor, tables, {1, 2}, {0, 1}, {0, 0}, {1})); // none of them did harm
}

TEST_P(DeviceSuite, RefusesDeclarationsLargerThanAnyMemory) {
  DevicePlan plan = prepared(handMadePlan());
  plan.outputs[0].dims[1].count = plan.inputs[0].dims.emplace_back().count = ~0u;
  plan.inputs[0].dims.push_back({Extent::Constant, ~0u});
  expectRefused(plan, executorOptions, Code::ResourceExhausted,
                "the input 'tokens' of a step, i32[T, 4294967295, 4294967295], is larger than any");
  plan = prepared(handMadePlan());
  plan.outputs[0].dims.insert(plan.outputs[0].dims.end(), 2, {Extent::Constant, 1 << 24});
  expectRefused(plan, executorOptions, Code::ResourceExhausted, "the output 'logits' of a step");
  plan = prepared(handMadePlan());
  expectRefused(plan, {INT32_MAX, INT32_MAX, {8, 8}}, Code::ResourceExhausted,
                "the input 'table' of a step, i32[S, P]");
  plan.programs[0].inputs.push_back(9);
  expectRefused(plan, executorOptions, Code::InvalidPlan, "an input that does not exist");
  plan = prepared(handMadePlan());
  plan.programs[0].outputs = {1};
  expectRefused(plan, executorOptions, Code::InvalidPlan, "an output that does not exist");
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
  ASSERT_TRUE(run(**first, tables, {3}, {0}, {0}, {0}));
  EXPECT_EQ(*run(**second, tables, {7}, {0}, {0}, {0}), expected({{7, 7}}));
  EXPECT_FALSE(run(**first, tables, {9}, {0}, {0, 0}, {0})); // which is no run
  EXPECT_EQ(logitsOf(**first, 1), expected({{3, 3}}));
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

// Tiles run between steps, by the smallest program that holds them, and change nothing of the
// steps.
TEST_P(KernelSuite, RunsTilesBetweenSteps) {
  DevicePlan plan = prepared(visionPlan());
  std::vector<float> weights(3 * 64);
  for (size_t i = 0; i < 8; ++i) {
    weights[i] = float(i) - .5f; // of steps
    weights[64 + i] = float(i) + 100;
    weights[128 + i] = float(i) + 200;
  }
  plan.sections[1] = std::as_bytes(std::span(weights));
  for (Program &program : plan.programs)
    program.calls[0].operands[1].offset = program.kind == ProgramKind::Step ? 0
                                          : program.tokens == 2             ? 256
                                                                            : 512;
  auto executor = create(plan);
  ASSERT_TRUE(executor) << executor.error().message;
  const Tables tables;
  const auto step = [&](int32_t token, int32_t position, int sum) {
    TestStep values(tables, {token}, {position}, {0}, {0});
    values.inputs.emplace_back();
    const Status run = (*executor)->run(values);
    ASSERT_TRUE(run) << run.error().message;
    EXPECT_EQ(logitsOf(**executor, 1), expected({{token, sum}}));
  };
  using F = std::vector<float>;
  EXPECT_EQ(*runTiles(**executor, {3}), F{103});
  step(2, 0, 2);
  EXPECT_EQ(*runTiles(**executor, {5, 1}), (F{105, 101}));
  EXPECT_EQ(*runTiles(**executor, {1, 2, 3, 4, 5, 6}), (F{201, 202, 203, 204, 205, 206}));
  step(3, 1, 5);
  step(1, 2, 6);
  EXPECT_EQ(*runTiles(**executor, {7, 0, 7}), (F{207, 200, 207}));
}

// An input of records, and an output beside another one.
TEST_P(KernelSuite, ChoosesTheIdsThatAreWanted) {
  auto executor = create(prepared(choosingPlan()));
  ASSERT_TRUE(executor) << executor.error().message;
  const RowSampling logits{RowSampling::writesLogits, 0, 0, 0, 0, 0, 0}, id{},
      drawn{RowSampling::writesLogits | RowSampling::draws, 2.5f, 100, 20, 4000, 3, 0};
  TestStep step({}, {1, 2, 3, 4}, {0, 1, 2, 3}, V(4), {0, 1, 2, 3});
  step.choose({logits, id, drawn, logits});
  const Status result = (*executor)->run(step);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(outputOf<int32_t>(**executor, IdsOut, 4), (V{1001, 1000, 4125, 1001}));
  EXPECT_EQ(logitsOf(**executor, 4), expected({{1, 1}, {2, 3}, {3, 6}, {4, 10}}));
}

// Of a step that declares less than others, nothing more is looked at or may be wanted.
TEST_P(KernelSuite, ProgramsDeclareWhatTheyTake) {
  DevicePlan plan = prepared(choosingPlan());
  Program &first = plan.programs[0]; // of one token
  first.inputs.pop_back();
  first.outputs.pop_back();
  first.calls.pop_back();
  auto executor = create(plan);
  ASSERT_TRUE(executor) << executor.error().message;
  TestStep one({}, {3}, {0}, {0}, {0});
  one.inputs.emplace_back();
  EXPECT_TRUE((*executor)->run(one));
  EXPECT_EQ(logitsOf(**executor, 1), expected({{3, 3}}));
  one.wanted.push_back({IdsOut, 0, 4});
  EXPECT_FALSE((*executor)->run(one));
  TestStep two({}, {1, 2}, {1, 2}, {0, 0}, {1});
  two.choose({RowSampling{}});
  EXPECT_TRUE((*executor)->run(two));
  EXPECT_EQ(outputOf<int32_t>(**executor, IdsOut, 1), V{1000});
  plan.programs[0].calls.push_back({4, {{OperandKind::Input, Sampling}, {OperandKind::Arena}}, 1});
  expectRefused(plan, executorOptions, Code::InvalidPlan, "operand that does not exist");
  plan.programs[0].calls.back().operands = {{OperandKind::Input, Rows},
                                            {OperandKind::Output, IdsOut}};
  expectRefused(plan, executorOptions, Code::InvalidPlan, "operand that does not exist");
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
  refused([](Calls &calls) { calls[2].operands[6].index = 1; }, words); // an output
  refused([](Calls &calls) { calls[0].operands[2].offset = 4096; }, words);
  refused([](Calls &calls) { calls[1].operands[4].index = 2; }, words); // a pool
  refused([](Calls &calls) { calls[2].operands[7].offset = 512; }, words);
}

} // namespace
} // namespace moe
