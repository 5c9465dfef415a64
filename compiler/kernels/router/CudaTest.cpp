// The router of larger steps on the simulator: norms, choices, scores, and the grouping of tokens.
#include "compiler/kernels/router/Router.h"
#include "compiler/targets/cuda/TestExperts.h"

namespace moe::codegen {

namespace {

using RouterKernel = TiledKernelTest;

TEST_F(RouterKernel, GroupsTokens) {
  struct Case {
    int64_t hidden, experts;
    int32_t tokens;
    const char *chip;
  };
  for (auto [hidden, experts, tokens, chip] :
       {Case{40, 1, 9, "sm_90a"}, Case{97, 3, 130, "sm_80"}, Case{136, 16, 65, "sm_90a"},
        Case{1100, 16, 17, "sm_90a"}, Case{260, 128, 300, "sm_90a"}, Case{64, 256, 40, "sm_80"},
        Case{64, 5, 1, "sm_90a"}}) {
    CudaRouter contract{hidden, experts, kEps};
    PtxKernel kernel(contract, chip);
    kernel.expectAssembles(255);
    Floats h = normal(tokens * hidden), norm = normal(hidden);
    Floats router = normal(experts * hidden, 0.1f);
    // Ties: the last expert scores as the first.
    std::copy_n(router.begin(), hidden, router.end() - hidden);
    Floats normed = reference::rmsNorm(h, norm, kEps);
    Floats logits = reference::linear(normed, router, hidden);
    auto routing = reference::route(logits, experts, 1);
    struct Result {
      Halves x;
      Ints experts, order, offsets;
      Floats scores;
      bool operator==(const Result &) const = default;
    };
    Result got = sameBits(tokens, [&](uint64_t seed, int64_t blocks) {
      PtxBench bench(seed);
      auto made = [&](Operand operand) { return bench.made(contract, operand, {tokens, 0}); };
      PtxArgument x = made(Operand::X), chosen = made(Operand::Experts),
                  scores = made(Operand::Scores), order = made(Operand::Order),
                  offsets = made(Operand::Offsets), counters = made(Operand::Counters);
      bench.run(kernel, blocks,
                {{Operand::H, bench.put(f32Rows(h, hidden))},
                 {Operand::Norm, bench.put(norm)},
                 {Operand::Router, bench.put(router)},
                 x,
                 chosen,
                 scores,
                 order,
                 offsets,
                 counters},
                {tokens, 0, 0, 0});
      if (HasFailure())
        return Result{};
      bench.expectZeros(counters.address, 4);
      return Result{bench.get<uint16_t>(x.address, tokens * padded(hidden)),
                    bench.get<int32_t>(chosen.address, tokens),
                    bench.get<int32_t>(order.address, tokens),
                    bench.get<int32_t>(offsets.address, experts + 1),
                    bench.get<float>(scores.address, tokens)};
    });
    if (HasFailure())
      return;
    expectNear(valuesOf(got.x, hidden), normed, kRounded, kernel.name);
    expectNear(got.scores, routing.scores, 1e-5, kernel.name);
    for (int32_t t = 0; t < tokens; ++t) {
      float best = logits[t * experts + routing.experts[t]];
      EXPECT_NEAR(logits[t * experts + got.experts[t]], best, 1e-5) << "token " << t;
      EXPECT_TRUE(experts == 1 || got.experts[t] != experts - 1) << "a tie went to the higher";
    }
    Groups groups = groupsOf(got.experts, experts);
    EXPECT_EQ(got.order, groups.order);
    EXPECT_EQ(got.offsets, groups.offsets);
  }
}

TEST_F(RouterKernel, RefusesWhatItDoesNotCover) {
  EXPECT_EQ((CudaRouter{32768, 256, kEps}.refusal()), "");
  EXPECT_EQ((CudaRouter{64, 257, kEps}.refusal()),
            "257 experts of 64 channels, and the router's kernel takes at most 256 of 32768");
  EXPECT_NE((CudaRouter{32769, 1, kEps}.refusal()), "");
}

} // namespace

} // namespace moe::codegen
