// Linears on the simulator, at odd sizes, against MoeReference: of small steps and of larger ones,
// added to the residual stream or not.
#include "compiler/kernels/linear/Linear.h"
#include "compiler/targets/cuda/TestKernels.h"

namespace moe::codegen {

namespace {

// x * transpose(w), or h + x * transpose(w).
struct Product {
  int64_t inputs, outputs;
  TestWeight w;
  Floats x, h;
  int32_t tokens() const { return int32_t(x.size() / inputs); }
};

//===----------------------------------------------------------------------===//
// Small steps
//===----------------------------------------------------------------------===//

// The residual stream after the kernel.
Floats run(const CudaSmallLinearResidual &contract, const PtxKernel &kernel, const Product &p,
           uint64_t seed, int64_t blocks) {
  PtxBench bench(seed);
  const Step room{p.tokens(), 0};
  uint64_t h = bench.put(f32Rows(p.h, p.outputs));
  PtxArgument counters = bench.made(contract, Operand::Counters, room);
  bench.run(kernel, blocks,
            {{Operand::X, bench.put(bf16Rows(p.x, p.inputs))},
             {Operand::Weight, bench.put(p.w.bytes)},
             {Operand::H, h},
             bench.made(contract, Operand::Partials, room),
             counters},
            {p.tokens(), p.tokens(), 1, 0});
  if (testing::Test::HasFailure())
    return {};
  bench.expectZeros(counters.address, contract.bytes(Operand::Counters, room));
  return valuesOf(bench.get<float>(h, p.tokens() * padded(p.outputs)), p.outputs);
}

using SmallLinearResidual = SmallKernelTest;
INSTANTIATE_TEST_SUITE_P(All, SmallLinearResidual, kSmallCases);

TEST_P(SmallLinearResidual, OddSizes) {
  for (auto [inputs, outputs, splits, format] : {std::tuple{64, 64, 1, kBf16},
                                                 {200, 40, 1, kBf16},
                                                 {2048, 72, 4, kBf16},
                                                 {3072, 72, 4, kInt4},
                                                 {96, 40, 1, kInt4Zeros}}) {
    Floats x = rounded(T * inputs), h = normal(T * outputs);
    Product p{inputs, outputs,
              testWeight(generator, format, 1, outputs, inputs, 1 / std::sqrt(inputs)), x, h};
    CudaSmallLinearResidual contract{inputs, outputs, format, splits};
    PtxKernel kernel(contract, chip);
    Floats first = run(contract, kernel, p, 0, blocks);
    if (HasFailure())
      return;
    expectEachNear(first, reference::linearResidual(x, p.w.values, h, inputs), 3e-5, kernel.name);
    for (uint64_t seed : {1, 2})
      ASSERT_EQ(run(contract, kernel, p, seed, blocks), first) << "seed " << seed;
  }
}

// Columns that do not fill a tile of the columns, odd numbers of strips, and shares of K that cut a
// row's group; and rows so long that on sm_80 little is left for the ring.
TEST(SmallLinearResidualOfLongGroups, MatchesTheReference) {
  std::mt19937 generator(11);
  for (const char *chip : {"sm_80", "sm_90a"})
    for (auto [format, inputs, outputs, splits] : {std::tuple{fp8Rows(1096), 1096, 40, 2},
                                                   {int8Rows(200), 200, 24, 1},
                                                   {int4Rows(2112), 2112, 40, 4},
                                                   {fp8Rows(48), 48, 17, 1},
                                                   {kBf16, 8192, 24, 1},
                                                   {kInt8, 8192, 24, 1},
                                                   {fp8Rows(8192), 8192, 24, 1}}) {
      CudaSmallLinearResidual contract{inputs, outputs, format, splits};
      PtxKernel kernel(contract, chip);
      for (int32_t tokens : {1, 8}) {
        Floats x = normalBf16(generator, tokens * inputs),
               h = normalFloats(generator, tokens * outputs);
        Product p{inputs, outputs,
                  testWeight(generator, format, 1, outputs, inputs, 1 / std::sqrt(float(inputs))),
                  x, h};
        Floats first = run(contract, kernel, p, 0, 3);
        if (testing::Test::HasFailure())
          return;
        expectNear(first, reference::linearResidual(x, p.w.values, h, inputs), kSum, kernel.name);
        EXPECT_EQ(run(contract, kernel, p, 1, 7), first) << kernel.name;
      }
    }
}

//===----------------------------------------------------------------------===//
// Larger steps
//===----------------------------------------------------------------------===//

struct TiledLinear : TiledKernelTest {
  Product make(int32_t tokens, int64_t inputs, const TestWeight &w) {
    return {inputs, int64_t(w.values.size()) / inputs, w, rounded(tokens * inputs), {}};
  }
  void expectSums(const CudaTiledLinear &contract, const PtxKernel &kernel, const Product &p) {
    Floats got = sameBits(9, [&](uint64_t seed, int64_t blocks) {
      PtxBench bench(seed);
      PtxArgument sums = bench.made(contract, Operand::Sums, {p.tokens(), 3});
      bench.run(kernel, blocks,
                {{Operand::X, bench.put(bf16Rows(p.x, p.inputs))},
                 {Operand::Weight, bench.put(p.w.bytes)},
                 sums},
                {p.tokens(), 3, 0, 0});
      EXPECT_EQ(bench.stats.sharedConflicts, 0u);
      return HasFailure() ? Floats() : bench.get<float>(sums.address, p.tokens() * p.outputs);
    });
    if (!HasFailure())
      expectNear(got, reference::linear(p.x, p.w.values, p.inputs), kSum, kernel.name);
  }
};

TEST_F(TiledLinear, OddSizes) {
  struct Case {
    WeightFormat format;
    int64_t inputs, outputs;
  };
  for (auto [chip, tile] : kPlaces)
    for (auto [format, inputs, outputs] :
         {Case{kBf16, 200, 301}, Case{kBf16, 40, 130}, Case{kInt4, 384, 150},
          Case{kInt4Zeros, 96, 140}, Case{kInt8Small, 192, 130}, Case{kFp8, 128, 130}}) {
      if (format.quantized() && tile > 128)
        continue;
      CudaTiledLinear contract{inputs, outputs, format, tile};
      PtxKernel kernel(contract, chip);
      kernel.expectAssembles(kTiledRegisters);
      TestWeight w = testWeight(generator, format, 1, outputs, inputs, 0.1f);
      Ints counts{1, 9, 17, 63, 64, 65, 130};
      if (format.quantized())
        counts = {9, 130};
      for (int32_t tokens : counts) {
        expectSums(contract, kernel, make(tokens, inputs, w));
        if (HasFailure())
          return;
      }
    }
}

TEST_F(TiledLinear, GroupsOfWholeRows) {
  for (auto [chip, tile, format, outputs] : {std::tuple{"sm_80", 128, fp8Rows(200), 150},
                                             {"sm_80", 64, int8Rows(136), 130},
                                             {"sm_90a", 64, int4Rows(320), 40},
                                             {"sm_90a", 128, fp8Rows(200), 150},
                                             {"sm_90a", 128, int4Rows(320), 40},
                                             {"sm_100a", 128, int8Rows(136), 130}}) {
    const int64_t inputs = format.group;
    CudaTiledLinear contract{inputs, outputs, format, tile};
    PtxKernel kernel(contract, chip);
    TestWeight w = testWeight(generator, format, 1, outputs, inputs, 0.1f);
    for (int32_t tokens : {9, 130}) {
      expectSums(contract, kernel, make(tokens, inputs, w));
      if (HasFailure())
        return;
    }
  }
}

TEST_F(TiledLinear, Instructions) {
  for (auto [chip, tile] : kPlaces) {
    PtxKernel kernel(CudaTiledLinear{5120, 7168, kBf16, tile}, chip);
    auto has = [&](llvm::StringRef text) { return llvm::StringRef(kernel.ptx).contains(text); };
    const bool wgmma = kernel.target.wgmma && tile >= 128;
    EXPECT_EQ(has("wgmma.mma_async"), wgmma) << kernel.name << " on " << chip;
    EXPECT_EQ(has("mma.sync"), !wgmma) << kernel.name << " on " << chip;
    EXPECT_EQ(has("cp.async.bulk"), kernel.target.bulkCopies);
    EXPECT_TRUE(has("ld.shared.v4.b32"));
    for (const char *bad : {".local", "ld.b32", "st.b32", "ld.v4", "call", "ld.shared.b32"})
      EXPECT_FALSE(has(bad)) << bad << " in " << kernel.name << " on " << chip;
  }
}

// Scout's, with scales for whole rows: without spills.
TEST_F(TiledLinear, AssemblesAtSize) {
  for (const char *chip : {"sm_90a", "sm_80", "sm_100a"}) {
    PtxKernel kernel(CudaTiledLinear{5120, 7168, fp8Rows(5120), 128}, chip);
    kernel.expectAssembles(kTiledRegisters);
  }
}

using TiledLinearResidual = TiledKernelTest;

TEST_F(TiledLinearResidual, OddSizes) {
  const int64_t inputs = 96, outputs = 200;
  for (auto [chip, tile] : kPlaces) {
    PtxKernel kernel(CudaTiledLinearResidual{inputs, outputs, kBf16, tile}, chip);
    kernel.expectAssembles(kTiledRegisters);
    Floats w = rounded(outputs * inputs, 0.1f);
    Halves packed = toFragments(w, outputs, inputs);
    for (int32_t tokens : {1, 33, 130}) {
      Floats x = rounded(tokens * inputs), before = normal(tokens * outputs);
      Floats got = sameBits(7, [&](uint64_t seed, int64_t blocks) {
        PtxBench bench(seed);
        uint64_t h = bench.put(f32Rows(before, outputs));
        bench.run(kernel, blocks,
                  {{Operand::X, bench.put(bf16Rows(x, inputs))},
                   {Operand::Weight, bench.put(packed)},
                   {Operand::H, h}},
                  {tokens, 0, 0, 0});
        return HasFailure() ? Floats() : bench.get<float>(h, tokens * padded(outputs));
      });
      if (HasFailure())
        return;
      expectNear(valuesOf(got, outputs), reference::linearResidual(x, w, before, inputs), kSum,
                 kernel.name);
    }
  }
}

//===----------------------------------------------------------------------===//
// Contracts
//===----------------------------------------------------------------------===//

TEST(LinearContracts, RefuseFormatsWithoutAKernel) {
  const std::string takes = "the kernels for GPUs take bf16, codes in groups of 128, 64, 32 or 16 "
                            "columns or, without zeros, codes in groups of whole rows";
  const WeightFormat floats{Storage::F32}, longGroups{Storage::I4, 256, Storage::F16};
  for (const WeightFormat &format : {floats, longGroups})
    for (const std::string &why : {CudaSmallLinearResidual{512, 64, format}.refusal(),
                                   CudaTiledLinearResidual{512, 64, format, 64}.refusal(),
                                   CudaTiledLinear{512, 64, format, 64}.refusal()}) {
      EXPECT_NE(why.find("a matrix is stored as " + nameOf(format)), std::string::npos) << why;
      EXPECT_NE(why.find(takes), std::string::npos) << why;
    }
  EXPECT_EQ((CudaTiledLinear{256, 64, longGroups, 64}.refusal()), ""); // whole rows
}

} // namespace

} // namespace moe::codegen
