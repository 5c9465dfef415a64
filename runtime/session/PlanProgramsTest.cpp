// A device gets its own part of a plan, in its own numbers.
#include "runtime/session/PlanPrograms.h"
#include "runtime/plan/SamplePlan.h"

#include <gtest/gtest.h>

using namespace moe;

namespace {

TEST(PlanPrograms, GivesEachDeviceItsOwn) {
  fb::PlanT from = sampleGpuPlan();
  std::swap(from.caches[2], from.caches[3]); // chunked before global
  for (size_t program : {2, 3}) {
    auto &operands = from.programs[program]->calls[0]->operation.AsKernelCall()->operands;
    operands[1] = fb::Operand(fb::OperandKind::Cache, 2, 1024, 0);
    operands[2] = fb::Operand(fb::OperandKind::Cache, 3, 0, 0);
    from.programs[program]->inputs[0]->pool = 2;
  }
  FileBytes file = samplePlanFile(std::move(from), 24576);
  auto plan = Plan::open(file.span());
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(planDevices(*plan), (std::vector<std::string>{"cpu", "cuda"}));

  const DevicePlan cpu = devicePlan(*plan, "cpu");
  ASSERT_EQ(cpu.pools.size(), 2u);
  EXPECT_EQ(cpu.pools[0].name, "global");
  EXPECT_EQ(cpu.pools[1].pageBytes, 4096u);
  ASSERT_EQ(cpu.images.size(), 1u);
  EXPECT_TRUE(cpu.images[0].launches.empty());
  EXPECT_TRUE(cpu.images[0].cubin.empty());
  EXPECT_EQ(cpu.programs[0].calls[1].operands[3].index, 1u);

  const DevicePlan cuda = devicePlan(*plan, "cuda");
  ASSERT_EQ(cuda.pools.size(), 2u);
  EXPECT_EQ(cuda.pools[0].name, "chunked");
  EXPECT_EQ(cuda.pools[0].chunk, 128);
  EXPECT_EQ(cuda.pools[0].pageBytes, 2048u);
  EXPECT_EQ(cuda.pools[1].name, "global");
  ASSERT_EQ(cuda.programs.size(), 2u);
  const Call &attend = cuda.programs[1].calls[0];
  EXPECT_EQ(attend.kernel, 4u);
  EXPECT_EQ(attend.blocks, 64u);
  EXPECT_EQ(attend.operands[1].index, 0u);
  EXPECT_EQ(attend.operands[1].offset, 1024u);
  EXPECT_EQ(attend.operands[2].index, 1u);
  const Operand &counters = cuda.programs[1].calls[1].operands[2];
  EXPECT_EQ(counters.kind, OperandKind::Counters);
  EXPECT_EQ(counters.bytes, 64u);
  EXPECT_EQ(cuda.programs[1].counterBytes, 256u);
  ASSERT_EQ(cuda.inputs.size(), 1u);
  EXPECT_EQ(cuda.inputs[0].pool, 0u);
  ASSERT_EQ(cuda.kernels.size(), 6u);
  EXPECT_EQ(cuda.kernels[5].name, "head");
  EXPECT_EQ(cuda.kernels[5].operands, 3u);
  ASSERT_EQ(cuda.images.size(), 1u);
  const Image &image = cuda.images[0];
  EXPECT_EQ(image.code.size(), 100u);
  EXPECT_EQ(image.cubin.size(), 100u);
  ASSERT_EQ(image.launches.size(), 6u);
  EXPECT_EQ(image.launches[4].threads, 256u);
  EXPECT_EQ(image.launches[4].sharedBytes, 65536u);
  EXPECT_EQ(image.launches[4].blocksPerSm, 2u);
  EXPECT_FALSE(image.launches[4].dependent);
  EXPECT_TRUE(image.launches[5].dependent);
}

// What two kinds call alike is not the same.
TEST(PlanPrograms, KeepsKindsApart) {
  FileBytes file = samplePlanFile(sampleVisionPlan());
  auto plan = Plan::open(file.span());
  ASSERT_TRUE(plan) << plan.error().message;
  const DevicePlan cpu = devicePlan(*plan, "cpu");
  ASSERT_EQ(cpu.programs.size(), 4u);
  EXPECT_EQ(cpu.programs[1].kind, ProgramKind::Step);
  const Program &vision = cpu.programs[3];
  EXPECT_EQ(vision.kind, ProgramKind::Vision);
  EXPECT_EQ(vision.tokens, 4);
  EXPECT_EQ(vision.rows, 0);
  ASSERT_EQ(vision.inputs.size(), 1u);
  EXPECT_EQ(cpu.inputs[vision.inputs[0]].name, "tiles");
  EXPECT_EQ(typeText(cpu.inputs[vision.inputs[0]]), "u8[T, 8, 8, 3]");
  EXPECT_EQ(typeText(cpu.outputs[vision.outputs[0]]), "f32[T, 4, 16]");
  EXPECT_EQ(vision.calls[0].operands[0].index, vision.inputs[0]);
  EXPECT_EQ(vision.calls[1].operands[1].index, vision.outputs[0]);
  EXPECT_EQ(cpu.inputs.size(), 6u);
  EXPECT_EQ(cpu.programs[0].inputs.size(), 5u);
}

// Programs of a device share a list, to which each says what it takes.
TEST(PlanPrograms, JoinsDeclarations) {
  fb::PlanT from = samplePlan();
  fb::ProgramT &second = *from.programs[1];
  second.inputs.insert(second.inputs.begin(), makeIds("rows", fb::Extent::Rows));
  second.outputs.push_back(makeIds("ids", fb::Extent::Rows));
  for (auto &call : second.calls)
    for (fb::Operand &operand : call->operation.AsKernelCall()->operands)
      if (operand.kind() == fb::OperandKind::Input)
        operand = fb::Operand(operand.kind(), operand.index() + 1, 0, 0);
  FileBytes file = samplePlanFile(std::move(from));
  auto plan = Plan::open(file.span());
  ASSERT_TRUE(plan) << plan.error().message;
  const DevicePlan cpu = devicePlan(*plan, "cpu");
  std::vector<std::string> names;
  for (const TensorSpec &input : cpu.inputs)
    names.push_back(input.name + " " + typeText(input));
  EXPECT_EQ(names, (std::vector<std::string>{"tokens i32[T]", "global_table i32[S, P]",
                                             "chunked_table i32[S, P]", "rows i32[R]"}));
  EXPECT_EQ(cpu.inputs[0].pool, std::nullopt);
  EXPECT_EQ(cpu.inputs[2].pool, 1u);
  ASSERT_EQ(cpu.outputs.size(), 2u);
  EXPECT_EQ(typeText(cpu.outputs[0]), "f32[R, 100]");
  using V = std::vector<uint32_t>;
  EXPECT_EQ(cpu.programs[0].inputs, (V{0, 1, 2}));
  EXPECT_EQ(cpu.programs[1].inputs, (V{3, 0, 1, 2}));
  EXPECT_EQ(cpu.programs[0].outputs, V{0});
  EXPECT_EQ(cpu.programs[1].outputs, (V{0, 1}));
  for (const Program &program : cpu.programs) {
    EXPECT_EQ(program.calls[0].operands[0].index, 0u); // tokens
    EXPECT_EQ(program.calls[1].operands[1].index, 2u);
    EXPECT_EQ(program.calls[1].operands[2].index, 1u);
    EXPECT_EQ(program.calls[2].operands[1].kind, OperandKind::Output);
  }
}

} // namespace
