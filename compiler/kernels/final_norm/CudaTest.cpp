// Hidden states on the simulator. On CPUs OpTest.cpp has them.
#include "compiler/kernels/final_norm/FinalNorm.h"
#include "compiler/targets/cuda/TestKernels.h"

namespace moe::codegen {

namespace {

using FinalNormKernel = TiledKernelTest;

TEST_F(FinalNormKernel, OddSizes) {
  for (int64_t hidden : {40, 64, 97, 1030, 5120}) {
    FinalNorm contract{hidden, kEps};
    PtxKernel kernel(contract, hidden % 64 ? "sm_80" : "sm_90a");
    kernel.expectAssembles(64);
    const int32_t tokens = 7;
    const Ints rows{1, 0, 6, 6, 3};
    Floats h = normal(tokens * hidden, 3), norm = normal(hidden);
    // What follows the last row is not the kernel's.
    const int64_t wanted = rows.size() * hidden, behind = 64;
    Floats got = sameBits(rows.size(), [&](uint64_t seed, int64_t blocks) {
      PtxBench bench(seed);
      uint64_t states = bench.put(Floats(wanted + behind, kPadding));
      bench.run(kernel, blocks,
                {{Operand::Rows, bench.put(rows)},
                 {Operand::H, bench.put(f32Rows(h, hidden))},
                 {Operand::Norm, bench.put(norm)},
                 {Operand::HiddenStates, states}},
                {tokens, int32_t(rows.size()), 0, 0});
      return bench.get<float>(states, wanted + behind);
    });
    EXPECT_EQ(Floats(got.begin() + wanted, got.end()), Floats(behind, kPadding)) << kernel.name;
    got.resize(wanted);
    expectNear(got, reference::finalNorm(h, rows, norm, kEps), kSum, kernel.name);
  }
}

} // namespace

} // namespace moe::codegen
