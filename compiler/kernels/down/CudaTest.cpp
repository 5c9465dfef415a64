// The down projections of larger steps on the simulator at the K of published models. Those of odd
// sizes and of small steps are tested with gate and up.
#include "compiler/targets/cuda/TestExperts.h"

namespace moe::codegen {

namespace {

struct TiledDown : TiledKernelTest {
  void check(const FeedForward &layer, int64_t tile, const Ints &chosen) {
    PtxKernel kernel(layer.tiledDown(tile));
    RoutedTokens s(generator, layer, chosen);
    Halves wide = bf16Rows(rounded(layer.matrices() * s.tokens() * layer.width), layer.width);
    Floats got = runDown(kernel, layer, s, wide, 3, 4, /*races=*/false);
    if (!HasFailure())
      expectDown(layer, s, wide, got);
  }
};

TEST_F(TiledDown, Scout) {
  FeedForward layer(generator, 128, 8192, 16);
  check(layer, 64, anyExperts(generator, layer.experts, 32));
}

TEST_F(TiledDown, MaverickDense) {
  FeedForward layer(generator, 128, 16384, 0);
  check(layer, 128, Ints(64));
}

// Scout's and Maverick's shapes assemble within the budget of a block, without spills.
TEST(DownKernels, AssembleAtSize) {
  const WeightFormat rows = fp8Rows(8192);
  for (const char *chip : {"sm_90a", "sm_80", "sm_100a"}) {
    auto assembles = [&](const auto &contract, int64_t registers) {
      PtxKernel(contract, chip).expectAssembles(registers);
    };
    for (const WeightFormat &format : {kBf16, kInt4, kInt4Zeros, kInt8, kFp8})
      assembles(CudaSmallDown{5120, 8192, 16, 1, format, format, 4},
                format.quantized() ? kCodeRegisters : kSmallRegisters);
    assembles(CudaSmallDown{5120, 8192, 128, 1, kBf16, rows, 1}, kCodeRegisters);
    assembles(CudaSmallDown{5120, 8192, 16, 1, kInt8, kInt8, 1}, kCodeRegisters);
    if (chip != std::string("sm_100a")) // its tiled kernels multiply as those of sm_80
      assembles(CudaTiledDown{5120, 8192, 128, 1, kBf16, rows, 128}, kTiledRegisters);
  }
}

TEST(DownContracts, RefuseSeveralExpertsOfAToken) {
  for (const std::string &why : {CudaSmallDown{64, 64, 4, 2, kBf16, kBf16}.refusal(),
                                 CudaTiledDown{64, 64, 4, 2, kBf16, kBf16, 64}.refusal()})
    EXPECT_EQ(why, "a token has 2 experts, and the kernels for GPUs take one");
}

} // namespace

} // namespace moe::codegen
