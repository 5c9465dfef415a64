// The q, k and v projections of small steps on the simulator. Those of larger steps are linears,
// and the finishing of what they make is tested with attention.
#include "compiler/kernels/qkv/Qkv.h"
#include "compiler/targets/cuda/TestKernels.h"

namespace moe::codegen {

namespace {

using SmallQkv = SmallKernelTest;
INSTANTIATE_TEST_SUITE_P(All, SmallQkv, kSmallCases);

TEST_P(SmallQkv, OddSizes) {
  for (auto [hidden, rows, splits, format] : {std::tuple{64, 48, 1, kBf16},
                                              {200, 40, 1, kBf16},
                                              {1600, 80, 2, kBf16},
                                              {128, 16, 1, kInt4},
                                              {2304, 40, 2, kInt4},
                                              {1632, 40, 3, kInt4Zeros},
                                              {1280, 24, 1, kInt8},
                                              {192, 40, 2, kInt8Small},
                                              {256, 24, 1, kFp8}}) {
    Floats h = normal(T * hidden), norm = normal(hidden);
    TestWeight w = testWeight(generator, format, 1, rows, hidden, 1 / std::sqrt(hidden));
    CudaSmallQkv contract{hidden, rows, format, kEps, splits};
    PtxKernel kernel(contract, chip);
    PtxArgument sums = bench.made(contract, Operand::Sums, {T, T});
    bench.run(kernel, blocks,
              {{Operand::H, bench.put(f32Rows(h, hidden, NAN))},
               {Operand::Norm, bench.put(norm)},
               {Operand::Weight, bench.put(w.bytes)},
               sums},
              step);
    Floats parts = bench.get<float>(sums.address, splits * T * rows), got(T * rows);
    for (size_t i = 0; i < parts.size(); ++i)
      got[i % got.size()] += parts[i];
    Floats x = toHalves(reference::rmsNorm(h, norm, kEps));
    // Longer rows may have a channel that rounds the other way here.
    expectEachNear(got, reference::linear(x, w.values, hidden), hidden < 1000 ? 3e-5 : 1e-3,
                   kernel.name);
  }
}

// Scout's shape assembles within the budget of a block of 288 threads, without spills.
TEST(SmallQkvAtSize, Assembles) {
  for (const char *chip : {"sm_90a", "sm_80", "sm_100a"})
    for (const WeightFormat &format : {kBf16, kInt4, kInt4Zeros, kInt8, kFp8})
      PtxKernel(CudaSmallQkv{5120, 7168, format, kEps, 2}, chip)
          .expectAssembles(format.quantized() ? kCodeRegisters : kSmallRegisters);
}

} // namespace

} // namespace moe::codegen
