// Heads on the simulator: logits against MoeReference, and the id of the largest logit of each row
// against a plain search of the logits that the kernel writes.
#include "compiler/kernels/head/Head.h"
#include "compiler/targets/cuda/TestKernels.h"
#include "compiler/targets/cuda/TestSampling.h"

namespace moe::codegen {

namespace {

std::vector<RowSampling> samplingOf(const std::vector<uint32_t> &flags) {
  std::vector<RowSampling> rows(flags.size());
  for (size_t r = 0; r < flags.size(); ++r)
    rows[r].flags = flags[r];
  return rows;
}

//===----------------------------------------------------------------------===//
// Logits
//===----------------------------------------------------------------------===//

using SmallHead = SmallKernelTest;
INSTANTIATE_TEST_SUITE_P(All, SmallHead, kSmallCases);

TEST_P(SmallHead, Logits) {
  const int64_t hidden = 136, vocabulary = 75;
  Floats h = normal(T * hidden), norm = normal(hidden), w = rounded(vocabulary * hidden, 0.1f);
  Ints rows;
  for (int64_t r = 0; r < T; r += 2)
    rows.push_back(T - 1 - r);
  CudaSmallHead contract{hidden, vocabulary, kBf16, kEps};
  PtxKernel kernel(contract, chip);
  uint64_t logits = bench.put(Floats(T * vocabulary, 7));
  PtxArgument counters = bench.made(contract, Operand::Counters, {T, T});
  const PtxArgument arguments[]{
      {Operand::Rows, bench.put(rows)},
      {Operand::Sampling, bench.put(samplingOf(std::vector<uint32_t>(T, kWritesLogits)))},
      {Operand::H, bench.put(f32Rows(h, hidden, 0))},
      {Operand::Norm, bench.put(norm)},
      {Operand::Weight, bench.put(toFragments(w, vocabulary, hidden))},
      {Operand::Logits, logits},
      {Operand::Ids, bench.room(T * 4)},
      counters};
  bench.run(kernel, blocks, arguments, {int32_t(T), int32_t(rows.size()), 1, 0});
  Floats got = bench.get<float>(logits, T * vocabulary);
  for (size_t i = rows.size() * vocabulary; i < got.size(); ++i)
    ASSERT_EQ(got[i], 7);
  got.resize(rows.size() * vocabulary);
  Floats x = toHalves(reference::rmsNorm(reference::selectRows(h, rows, hidden), norm, kEps));
  expectEachNear(got, reference::linear(x, w, hidden), 3e-5, kernel.name);
  // Without rows there is nothing to do, and nothing hangs.
  bench.run(kernel, blocks, arguments, {int32_t(T), 0, 1, 0});
}

using TiledHead = TiledKernelTest;

TEST_F(TiledHead, Logits) {
  const int64_t vocabulary = 130;
  for (auto [chip, tile] : kPlaces)
    for (auto [format, hidden] : {std::pair{kBf16, 40}, {kInt8Small, 192}}) {
      if (format.quantized() && tile > 128)
        continue;
      CudaTiledHead contract{hidden, vocabulary, format, tile};
      PtxKernel kernel(contract, chip);
      kernel.expectAssembles(kTiledRegisters);
      TestWeight w = testWeight(generator, format, 1, vocabulary, hidden, 0.1f);
      for (int32_t n : {1, 65, 130}) {
        Floats x = rounded(n * hidden);
        Floats got = sameBits(9, [&](uint64_t seed, int64_t blocks) {
          PtxBench bench(seed);
          uint64_t logits = bench.room(n * vocabulary * 4);
          bench.run(
              kernel, blocks,
              {{Operand::X, bench.put(bf16Rows(x, hidden))},
               {Operand::Sampling, bench.put(samplingOf(std::vector<uint32_t>(n, kWritesLogits)))},
               {Operand::Weight, bench.put(w.bytes)},
               {Operand::Logits, logits},
               {Operand::Ids, bench.room(n * 4)},
               bench.made(contract, Operand::Counters, {n, n})},
              {7, n, 0, 0});
          EXPECT_EQ(bench.stats.sharedConflicts, 0u);
          return HasFailure() ? Floats() : bench.get<float>(logits, n * vocabulary);
        });
        if (HasFailure())
          return;
        expectNear(got, reference::linear(x, w.values, hidden), kSum, kernel.name);
      }
    }
}

TEST(HeadKernels, AssembleAtSize) {
  for (const char *chip : {"sm_80", "sm_90a", "sm_100a"}) {
    PtxKernel(CudaSmallHead{5120, 202048, kBf16, kEps}, chip).expectAssembles(kSmallRegisters);
    PtxKernel(CudaTiledHead{5120, 202048, kBf16, 128}, chip).expectAssembles(kTiledRegisters);
  }
}

//===----------------------------------------------------------------------===//
// Ids
//===----------------------------------------------------------------------===//

struct IdsCase {
  const char *chip;
  int64_t tile; // kSmallTokens: a small step's head
  int32_t rows;
  int64_t vocabulary;
};

// The head of x [rows, hidden], whose norm is the same for all: hidden = 64 ones, scaled.
class HeadIds : public testing::TestWithParam<IdsCase>, protected RandomFloats {
protected:
  const int64_t hidden = 64;
  const IdsCase c = GetParam();
  const bool small = c.tile == kSmallTokens;
  const CudaSmallHead smallHead{hidden, c.vocabulary, kBf16, kEps};
  const CudaTiledHead tiledHead{hidden, c.vocabulary, kBf16, c.tile};
  const PtxKernel &kernel = small ? compiled(smallHead, c.chip) : compiled(tiledHead, c.chip);

  HeadIds() { generator.seed(5); }

  struct Outcome {
    Floats logits;
    Ints ids;
  };
  // Rows of `flags` without kWritesLogits keep 7 in all of their logits.
  Outcome run(const Floats &x, const Floats &w, const std::vector<uint32_t> &flags, int64_t blocks,
              uint64_t seed) {
    PtxBench bench(seed);
    const int32_t rows = int32_t(flags.size());
    std::vector<RowSampling> sampling = samplingOf(flags);
    sampling.emplace_back(); // operands of no rows are some bytes, too
    const Step step{rows, rows};
    uint64_t logits = bench.put(Floats((rows + 1) * c.vocabulary, 7)),
             ids = bench.put(Ints(rows + 1, 99));
    PtxArgument counters = small ? bench.made(smallHead, Operand::Counters, step)
                                 : bench.made(tiledHead, Operand::Counters, step);
    std::vector<PtxArgument> arguments{
        {Operand::Sampling, bench.put(sampling)},
        {Operand::Weight, bench.put(toFragments(w, c.vocabulary, hidden))},
        {Operand::Logits, logits},
        {Operand::Ids, ids},
        counters};
    if (small) {
      Ints order(rows + 1);
      std::iota(order.begin(), order.end(), 0);
      arguments.insert(arguments.end(), {{Operand::Rows, bench.put(order)},
                                         {Operand::H, bench.put(x)},
                                         {Operand::Norm, bench.put(Floats(hidden, 1))}});
    } else {
      arguments.push_back({Operand::X, bench.put(bf16Rows(x, hidden))});
    }
    bench.run(kernel, blocks, arguments, {rows, rows, 1, 0});
    bench.expectZeros(counters.address, smallHead.bytes(Operand::Counters, step));
    Ints got = bench.get<int32_t>(ids, rows + 1);
    EXPECT_EQ(got.back(), 99);
    got.pop_back();
    return {bench.get<float>(logits, rows * c.vocabulary), got};
  }
};

INSTANTIATE_TEST_SUITE_P(
    All, HeadIds,
    testing::Values(IdsCase{"sm_90a", 8, 1, 75}, IdsCase{"sm_90a", 8, 8, 301},
                    IdsCase{"sm_80", 8, 5, 16}, IdsCase{"sm_100a", 8, 3, 129},
                    IdsCase{"sm_90a", 64, 20, 301}, IdsCase{"sm_80", 64, 70, 130},
                    IdsCase{"sm_90a", 128, 130, 257}, IdsCase{"sm_80", 128, 40, 1},
                    IdsCase{"sm_100a", 128, 9, 300}),
    [](const auto &info) {
      return std::string(info.param.chip) + "_t" + std::to_string(info.param.tile) + "_" +
             std::to_string(info.param.rows) + "x" + std::to_string(info.param.vocabulary);
    });

TEST_P(HeadIds, AreOfTheLargestLogits) {
  kernel.expectAssembles(small ? kSmallRegisters : kTiledRegisters);
  Floats x = normal(c.rows * hidden), w = normal(c.vocabulary * hidden, 0.2f);
  // Rows of weights that are equal give equal logits, with any token.
  for (int64_t row = c.vocabulary / 2; row < c.vocabulary; ++row)
    std::copy_n(w.begin() + (row - c.vocabulary / 2) * hidden, hidden, w.begin() + row * hidden);
  std::vector<uint32_t> all(c.rows, kWritesLogits), some;
  for (int32_t r = 0; r < c.rows; ++r)
    some.push_back(r % 3 == 1 ? kWritesLogits : 0);
  Outcome first = run(x, w, all, 5, 0);
  for (int32_t r = 0; r < c.rows; ++r) {
    auto row = std::span(first.logits).subspan(r * c.vocabulary, c.vocabulary);
    ASSERT_EQ(first.ids[r], largest(row)) << "row " << r;
    EXPECT_LT(first.ids[r], std::max<int64_t>(1, (c.vocabulary + 1) / 2)); // ties
  }
  for (auto [blocks, seed] : {std::pair{1, 1}, {3, 2}, {5, 3}}) {
    Outcome again = run(x, w, some, blocks, seed);
    EXPECT_EQ(again.ids, first.ids);
    for (int32_t r = 0; r < c.rows; ++r)
      for (int64_t v = 0; v < c.vocabulary; ++v)
        ASSERT_EQ(again.logits[r * c.vocabulary + v],
                  some[r] ? first.logits[r * c.vocabulary + v] : 7);
  }
}

TEST_P(HeadIds, TellWhatIsNoNumber) {
  // Channel 0 of x is positive; weights of channel 0 that are not finite make such logits.
  Floats x = normal(c.rows * hidden), w = normal(c.vocabulary * hidden, 0.2f);
  for (int32_t r = 0; r < c.rows; ++r)
    x[r * hidden] = 1;
  auto ids = [&](const Floats &w) { return run(x, w, std::vector<uint32_t>(c.rows, 0), 3, 1).ids; };
  Floats bad = w;
  int64_t last = c.vocabulary - 1, middle = last / 2;
  bad[last * hidden] = NAN;
  EXPECT_EQ(ids(bad), Ints(c.rows, badLogitId(last)));
  bad[middle * hidden] = kInf;
  EXPECT_EQ(ids(bad), Ints(c.rows, badLogitId(middle)));
  for (int64_t row = 0; row < c.vocabulary; ++row)
    bad[row * hidden] = -kInf;
  EXPECT_EQ(ids(bad), Ints(c.rows, kNothingToChoose));
  bad[last * hidden] = w[last * hidden];
  EXPECT_EQ(ids(bad), Ints(c.rows, last));
}

TEST_P(HeadIds, NoRows) {
  EXPECT_TRUE(run(Floats(hidden), normal(c.vocabulary * hidden), {}, 3, 0).ids.empty());
}

} // namespace

} // namespace moe::codegen
