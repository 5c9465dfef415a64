// The second half of a layer on the simulator: gate and up, and down of what these leave, in small
// steps and in larger ones, against MoeReference.
#include "compiler/targets/cuda/TestExperts.h"

namespace moe::codegen {

namespace {

// One format of whole rows for all, and the mixtures that checkpoints have.
std::vector<FeedForwardFormats> mixedFormats(int64_t hidden, int64_t width) {
  return {{fp8Rows(hidden), fp8Rows(hidden), fp8Rows(width), fp8Rows(width)},
          {kBf16, fp8Rows(hidden), kBf16, fp8Rows(width)},
          {kInt8Small, kInt4Zeros, kInt8Small, kInt4Zeros},
          {kInt8, int4Rows(hidden), kBf16, kInt4}};
}

//===----------------------------------------------------------------------===//
// Small steps
//===----------------------------------------------------------------------===//

struct SmallStep {
  const char *chip;
  int32_t tokens;
  int64_t blocks, downBlocks;
};

// Gate and up with the router, whose weights are of the size `routing`, and down.
void checkSmall(std::mt19937 &generator, const FeedForward &layer, int64_t splits, float routing,
                const SmallStep &s) {
  const int64_t hidden = layer.hidden, width = layer.width, experts = layer.experts;
  Floats h = normalFloats(generator, s.tokens * hidden), norm = normalFloats(generator, hidden),
         router = normalFloats(generator, experts * hidden, routing);
  Floats exact = reference::rmsNorm(h, norm, kEps), x = toHalves(exact);
  reference::Routing want{Ints(s.tokens), Floats(s.tokens, 1)};
  if (experts)
    want = reference::route(reference::linear(exact, router, hidden), experts, 1);

  PtxBench bench(s.tokens);
  const Step room{s.tokens, 0};
  const cuda::StepInfo step{s.tokens, s.tokens, 1, 0};
  const int64_t rows = layer.matrices() * s.tokens;
  CudaSmallGateUp gateUp = layer.smallGateUp();
  PtxKernel up(gateUp, s.chip);
  auto made = [&](Operand operand) { return bench.made(gateUp, operand, room); };
  PtxArgument wide = made(Operand::Hidden), chosen{}, counters{};
  std::vector<PtxArgument> arguments = layer.put(bench, layer.gateUp);
  arguments.insert(
      arguments.end(),
      {{Operand::H, bench.put(f32Rows(h, hidden, NAN))}, {Operand::Norm, bench.put(norm)}, wide});
  if (experts) {
    chosen = made(Operand::Experts);
    counters = made(Operand::Counters);
    arguments.insert(
        arguments.end(),
        {{Operand::Router, bench.put(router)}, chosen, made(Operand::ExpertLogits), counters});
  }
  bench.run(up, s.blocks, arguments, step);
  if (testing::Test::HasFailure())
    return;
  Floats got = valuesOf(bench.get<uint16_t>(wide.address, rows * padded(width)), width),
         wanted = layer.wide(x, want.experts, want.scores);
  expectEachNear(got, wanted, 1.0 / 128, up.name);
  expectNear(got, wanted, kRounded, up.name);
  if (experts) {
    EXPECT_EQ(bench.get<int32_t>(chosen.address, s.tokens), want.experts) << up.name;
    bench.expectZeros(counters.address, gateUp.bytes(Operand::Counters, room));
  }

  // Down, of what gate and up wrote.
  CudaSmallDown contract = layer.smallDown(splits);
  PtxKernel down(contract, s.chip);
  uint64_t sum = bench.put(f32Rows(h, hidden));
  counters = bench.made(contract, Operand::Counters, room);
  arguments = layer.put(bench, layer.down);
  arguments.insert(
      arguments.end(),
      {wide, {Operand::H, sum}, bench.made(contract, Operand::Partials, room), counters});
  if (experts)
    arguments.push_back(chosen);
  bench.run(down, s.downBlocks, arguments, step);
  if (testing::Test::HasFailure())
    return;
  Floats after = valuesOf(bench.get<float>(sum, s.tokens * padded(hidden)), hidden);
  wanted = layer.added(h, got, want.experts);
  expectEachNear(after, wanted, 3e-5, down.name);
  expectNear(after, wanted, kSum, down.name);
  bench.expectZeros(counters.address, contract.bytes(Operand::Counters, room));
}

using SmallFeedForward = SmallKernelTest;
INSTANTIATE_TEST_SUITE_P(All, SmallFeedForward, kSmallCases);

TEST_P(SmallFeedForward, OddSizes) {
  for (auto [hidden, width, experts, splits, shared, routed] :
       {std::tuple{64, 64, 4, 1, kBf16, kBf16},
        {136, 40, 3, 1, kBf16, kBf16},
        {1088, 72, 16, 1, kBf16, kBf16},
        {64, 1088, 5, 2, kBf16, kBf16},
        {200, 200, 0, 1, kBf16, kBf16},
        {64, 2048, 0, 4, kBf16, kBf16},
        {384, 2432, 5, 2, kInt4, kInt4},
        {256, 128, 3, 1, kBf16, kFp8},
        {128, 1152, 4, 2, kInt8, kInt4Zeros}}) {
    FeedForward layer(generator, hidden, width, experts, {shared, routed, shared, routed});
    checkSmall(generator, layer, splits, 1, {chip, int32_t(T), blocks, blocks});
    if (HasFailure())
      return;
  }
}

// With a router that gives scores of all sizes.
TEST(SmallFeedForwardFormats, Mixed) {
  std::mt19937 generator(11);
  const int64_t hidden = 384, width = 1152;
  for (const char *chip : {"sm_80", "sm_90a"})
    for (const FeedForwardFormats &formats : mixedFormats(hidden, width))
      for (int32_t tokens : {1, 8}) {
        FeedForward layer(generator, hidden, width, 4, formats);
        checkSmall(generator, layer, 2, 0.05f, {chip, tokens, 5, 7});
        if (testing::Test::HasFailure())
          return;
      }
}

//===----------------------------------------------------------------------===//
// Larger steps
//===----------------------------------------------------------------------===//

constexpr Place kSomePlaces[] = {{"sm_80", 128}, {"sm_90a", 64}, {"sm_90a", 256}, {"sm_100a", 128}};

struct TiledFeedForward : TiledKernelTest {
  FeedForward make(int64_t hidden, int64_t width, int64_t experts,
                   const WeightFormat &format = kBf16) {
    return FeedForward(generator, hidden, width, experts, format);
  }
  Ints anyExperts(const FeedForward &layer, int32_t tokens) {
    return codegen::anyExperts(generator, layer.experts, tokens);
  }

  Halves runGateUp(const CudaTiledGateUp &contract, const PtxKernel &kernel,
                   const FeedForward &layer, const RoutedTokens &s, uint64_t seed, int64_t blocks,
                   bool races = true) {
    PtxBench bench(seed);
    bench.options.races = races;
    PtxArgument wide = bench.made(contract, Operand::Hidden, {s.tokens(), 0});
    std::vector<PtxArgument> arguments = layer.put(bench, layer.gateUp);
    arguments.insert(arguments.end(),
                     {{Operand::X, bench.put(bf16Rows(s.x, layer.hidden), "x")}, wide});
    if (layer.experts)
      arguments.insert(arguments.end(),
                       {{Operand::Scores, bench.put(s.scores, "scores")},
                        {Operand::Order, bench.put(s.groups.order, "order")},
                        {Operand::Offsets, bench.put(s.groups.offsets, "offsets")}});
    bench.run(kernel, blocks, arguments, s.step());
    return HasFailure() ? Halves()
                        : bench.get<uint16_t>(wide.address,
                                              layer.matrices() * s.tokens() * padded(layer.width));
  }
  void expectWide(const FeedForward &layer, const RoutedTokens &s, const Halves &got) {
    expectNear(valuesOf(got, layer.width), layer.wide(s.x, s.chosen, s.scores), kRounded,
               "gate_up");
  }

  // Gate and up, then down, of steps with these choices.
  void check(const FeedForward &layer, Place place, const std::vector<Ints> &choices,
             bool assembles = true) {
    SCOPED_TRACE(testing::Message() << place.chip << ", tiles of " << place.tile);
    CudaTiledGateUp gateUp = layer.tiledGateUp(place.tile);
    PtxKernel up(gateUp, place.chip), down(layer.tiledDown(place.tile), place.chip);
    if (assembles) {
      up.expectAssembles(kTiledRegisters);
      down.expectAssembles(kTiledRegisters);
    }
    for (const Ints &chosen : choices) {
      RoutedTokens s(generator, layer, chosen);
      Halves wide = sameBits(11, [&](uint64_t seed, int64_t blocks) {
        return runGateUp(gateUp, up, layer, s, seed, blocks);
      });
      if (HasFailure())
        return;
      expectWide(layer, s, wide);
      Floats h = sameBits(11, [&](uint64_t seed, int64_t blocks) {
        return runDown(down, layer, s, wide, seed, blocks);
      });
      if (HasFailure())
        return;
      expectDown(layer, s, wide, h);
    }
  }
};

TEST_F(TiledFeedForward, Dense) {
  FeedForward layer = make(96, 40, 0);
  for (Place place : kSomePlaces)
    check(layer, place, {Ints(20), Ints(130)});
}

TEST_F(TiledFeedForward, Experts) {
  FeedForward layer = make(72, 136, 3);
  for (Place place : kSomePlaces)
    check(layer, place, {anyExperts(layer, 130)});
  check(layer, {"sm_90a", 64}, {{1}, anyExperts(layer, 9), anyExperts(layer, 65), Ints(63, 2)});
  check(layer, {"sm_90a", 128}, {anyExperts(layer, 9), Ints(200, 2)});
}

TEST_F(TiledFeedForward, Codes) {
  FeedForward int4 = make(128, 256, 3, kInt4), zeros = make(96, 64, 0, kInt4Zeros),
              int8 = make(64, 128, 2, kInt8Small);
  for (Place place :
       {Place{"sm_80", 128}, {"sm_80", 64}, {"sm_90a", 64}, {"sm_90a", 128}, {"sm_100a", 128}})
    check(int4, place, {anyExperts(int4, 130)});
  check(zeros, {"sm_90a", 128}, {Ints(20), Ints(130)});
  check(int8, {"sm_90a", 64}, {anyExperts(int8, 40)});
}

// The assembler sees them at their true sizes, below.
TEST_F(TiledFeedForward, MixedFormats) {
  const int64_t hidden = 128, width = 256;
  for (auto [chip, tile, format] : {std::tuple{"sm_80", 64, 2},
                                    {"sm_80", 128, 0},
                                    {"sm_80", 128, 1},
                                    {"sm_90a", 64, 3},
                                    {"sm_90a", 128, 0},
                                    {"sm_90a", 128, 1},
                                    {"sm_90a", 128, 3},
                                    {"sm_100a", 128, 1}}) {
    FeedForward layer(generator, hidden, width, 3, mixedFormats(hidden, width)[format]);
    check(layer, {chip, tile}, {anyExperts(layer, tile == 128 ? 130 : 40)}, /*assembles=*/false);
  }
}

TEST_F(TiledFeedForward, OneExpert) {
  FeedForward layer = make(64, 64, 1);
  check(layer, {"sm_90a", 64}, {Ints(1), Ints(64), Ints(130)});
}

TEST_F(TiledFeedForward, ManyExperts) {
  FeedForward many = make(40, 24, 128), fewer = make(40, 24, 16);
  check(many, {"sm_90a", 64},
        {anyExperts(many, 17), anyExperts(many, 130), Ints(64, 127), Ints(65, 0)});
  check(fewer, {"sm_80", 64}, {anyExperts(fewer, 64)});
}

// Scout's and Maverick's K, on few rows: as many stages as in earnest.
struct TiledGateUp : TiledFeedForward {
  void check(const FeedForward &layer, Place place, int32_t tokens) {
    CudaTiledGateUp contract = layer.tiledGateUp(place.tile);
    PtxKernel kernel(contract, place.chip);
    kernel.expectAssembles(kTiledRegisters);
    RoutedTokens s(generator, layer, anyExperts(layer, tokens));
    expectWide(layer, s, runGateUp(contract, kernel, layer, s, 3, 5, /*races=*/false));
  }
};

// In a batch of 64 and, by wgmma, in a prompt of 256.
TEST_F(TiledGateUp, Scout) {
  FeedForward layer = make(5120, 64, 16);
  check(layer, {"sm_90a", 64}, 64);
  check(layer, {"sm_90a", 256}, 256);
}

TEST_F(TiledGateUp, ScoutInt4) {
  FeedForward layer = make(5120, 128, 2, kInt4);
  check(layer, {"sm_90a", 64}, 40);
  check(layer, {"sm_90a", 128}, 150);
}

//===----------------------------------------------------------------------===//
// What the assembler says, and contracts
//===----------------------------------------------------------------------===//

// Scout's and Maverick's shapes assemble within the budget of a block, without spills.
TEST(GateUpKernels, AssembleAtSize) {
  const WeightFormat rows = fp8Rows(5120);
  for (const char *chip : {"sm_90a", "sm_80", "sm_100a"}) {
    auto assembles = [&](const auto &contract, int64_t registers) {
      PtxKernel(contract, chip).expectAssembles(registers);
    };
    for (const WeightFormat &format : {kBf16, kInt4, kInt4Zeros, kInt8, kFp8})
      assembles(CudaSmallGateUp{5120, 8192, 16, 1, format, format, kEps},
                format.quantized() ? kCodeRegisters : kSmallRegisters);
    assembles(CudaSmallGateUp{5120, 8192, 128, 1, kBf16, rows, kEps}, kCodeRegisters);
    if (chip == std::string("sm_100a")) // its tiled kernels multiply as those of sm_80
      continue;
    for (const WeightFormat &shared : {kBf16, rows})
      assembles(CudaTiledGateUp{5120, 8192, 128, 1, shared, rows, kEps, 128}, kTiledRegisters);
  }
}

TEST(GateUpContracts, RefuseSeveralExpertsOfAToken) {
  CudaSmallGateUp small{64, 64, 4, 2, kBf16, kBf16, kEps};
  CudaTiledGateUp tiled{64, 64, 4, 2, kBf16, kBf16, kEps, 64};
  for (const std::string &why : {small.refusal(), tiled.refusal()})
    EXPECT_EQ(why, "a token has 2 experts, and the kernels for GPUs take one");
  const WeightFormat unpacked{Storage::F32};
  EXPECT_NE((CudaSmallGateUp{64, 64, 4, 1, kBf16, unpacked, kEps}.refusal()), "");
  EXPECT_NE((CudaTiledGateUp{64, 64, 4, 1, unpacked, kBf16, kEps, 64}.refusal()), "");
  EXPECT_EQ((CudaSmallGateUp{64, 64, 0, 1, kBf16, unpacked, kEps}.refusal()), ""); // dense
}

} // namespace

} // namespace moe::codegen
