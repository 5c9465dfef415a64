// The rotary table on the simulator, against cosines and sines in double precision.
#include "compiler/kernels/rope_table/RopeTable.h"
#include "compiler/targets/cuda/TestKernels.h"

namespace moe::codegen {

namespace {

using RopeTableKernel = SmallKernelTest;
INSTANTIATE_TEST_SUITE_P(All, RopeTableKernel, kSmallCases);

TEST_P(RopeTableKernel, FarPositions) {
  const int pairs = 33;
  RopeTable contract;
  for (int j = 0; j < pairs; ++j)
    contract.frequencies.push_back(std::pow(500000.0, -j / 33.0));
  Ints positions;
  for (int64_t t = 0; t < T; ++t)
    positions.push_back(generator() % 1000000);
  PtxKernel kernel(contract, chip);
  const int64_t stride = padded(2 * pairs);
  EXPECT_EQ(contract.bytes(Operand::RopeTable, {T, T}), T * stride * 4);
  uint64_t table = bench.put(Floats(T * stride, 7));
  bench.run(kernel, blocks,
            {{Operand::Positions, bench.put(positions)}, {Operand::RopeTable, table}}, step);
  Floats got = bench.get<float>(table, T * stride);
  for (int64_t t = 0; t < T; ++t)
    for (int j = 0; j < pairs; ++j) {
      const double angle = float(positions[t]) * contract.frequencies[j];
      ASSERT_NEAR(got[t * stride + 2 * j], std::cos(angle), 2e-7);
      ASSERT_NEAR(got[t * stride + 2 * j + 1], std::sin(angle), 2e-7);
    }
}

} // namespace

} // namespace moe::codegen
