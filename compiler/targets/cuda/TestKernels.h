// What the tests of CUDA kernels at odd sizes share: rows as kernels take them, comparisons, and
// the cases that kernels run in.
#ifndef MOE_COMPILER_TARGETS_CUDA_TESTKERNELS_H
#define MOE_COMPILER_TARGETS_CUDA_TESTKERNELS_H

#include "compiler/targets/cuda/TestPtx.h"
#include "dialects/moe/MoeReference.h"

namespace moe::codegen {

inline constexpr float kEps = 1e-5f;

//===--- Rows --------------------------------------------------------------------------------------

// Rows of n channels, padded: with zeros in bf16, with a pattern in float32.
inline Halves bf16Rows(const Floats &values, int64_t n) {
  Halves rows(values.size() / n * padded(n));
  for (size_t i = 0; i < values.size(); ++i)
    rows[i / n * padded(n) + i % n] = toBf16(values[i]);
  return rows;
}
inline constexpr float kPadding = -77;
inline Floats f32Rows(const Floats &values, int64_t n, float padding = kPadding) {
  Floats rows(values.size() / n * padded(n), padding);
  for (size_t i = 0; i < values.size(); ++i)
    rows[i / n * padded(n) + i % n] = values[i];
  return rows;
}

// The channels of padded rows; the padding must be what it was.
inline Floats valuesOf(const Floats &rows, int64_t n) {
  Floats values;
  for (size_t i = 0; i < rows.size(); ++i)
    if (int64_t(i) % padded(n) < n)
      values.push_back(rows[i]);
    else
      EXPECT_EQ(rows[i], kPadding) << "padding at " << i;
  return values;
}
inline Floats valuesOf(const Halves &rows, int64_t n) {
  Floats values;
  for (size_t i = 0; i < rows.size(); ++i)
    if (int64_t(i) % padded(n) < n)
      values.push_back(fromBf16(rows[i]));
    else
      EXPECT_EQ(rows[i], 0) << "padding at " << i;
  return values;
}

// What feeds a product.
inline Floats toHalves(Floats values) {
  for (float &v : values)
    v = reference::roundToBfloat16(v);
  return values;
}

//===--- Comparisons -------------------------------------------------------------------------------

// Tolerances, relative to the largest value: of float32 sums, and of what is then rounded to bf16.
inline constexpr double kSum = 5e-6, kRounded = 5e-3;

inline void expectNear(const Floats &got, const Floats &want, double tolerance,
                       const std::string &what = "") {
  ASSERT_EQ(got.size(), want.size()) << what;
  double largest = 0, error = 0;
  size_t worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(std::isfinite(got[i])) << what << ", element " << i;
    largest = std::max(largest, std::abs(double(want[i])));
    double e = std::abs(double(got[i]) - want[i]);
    if (e > error)
      error = e, worst = i;
  }
  EXPECT_LE(error, tolerance * largest)
      << what << ", element " << worst << ": " << got[worst] << ", not " << want[worst];
}

// Each element by itself, relative to 1 or, where that is larger, about its value.
inline void expectEachNear(const Floats &got, const Floats &want, double tolerance,
                           const std::string &what = "") {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], want[i], tolerance * (1 + std::abs(want[i]))) << what << " at " << i;
}

// Calls run(seed, blocks) for several orders of warps and grids of at most `most` blocks. What it
// returns must be the same each time.
template <class Run> auto sameBits(int64_t most, Run run) {
  auto first = run(uint64_t(0), most);
  if (testing::Test::HasFailure())
    return first;
  for (auto [seed, blocks] : {std::pair<uint64_t, int64_t>{1, 1}, {2, 3}})
    EXPECT_EQ(first, run(seed, std::min(blocks, most))) << "seed " << seed;
  return first;
}

//===--- Cases -------------------------------------------------------------------------------------

// A step of at most kSmallTokens tokens, and the blocks that a kernel is launched with.
struct SmallCase {
  const char *chip;
  int64_t tokens, blocks;
};
inline void PrintTo(const SmallCase &c, std::ostream *os) {
  *os << c.chip << " " << c.tokens << " tokens " << c.blocks << " blocks";
}
inline const auto kSmallCases =
    testing::Values(SmallCase{"sm_90a", 1, 1}, SmallCase{"sm_90a", 1, 7}, SmallCase{"sm_90a", 3, 5},
                    SmallCase{"sm_90a", 8, 4}, SmallCase{"sm_80", 1, 3}, SmallCase{"sm_80", 8, 5},
                    SmallCase{"sm_100a", 5, 3});

class SmallKernelTest : public testing::TestWithParam<SmallCase>, protected RandomFloats {
protected:
  SmallKernelTest() { generator.seed(uint32_t(T * 7 + blocks)); }

  const char *chip = GetParam().chip;
  const int64_t T = GetParam().tokens, blocks = GetParam().blocks;
  const cuda::StepInfo step{int32_t(T), int32_t(T), 1, 0};
  PtxBench bench;
};

// Registers that ptxas may use at most: of small kernels of bf16, of those of codes, of tiled ones.
inline constexpr int64_t kSmallRegisters = 96, kCodeRegisters = 168, kTiledRegisters = 168;

class TiledKernelTest : public testing::Test, protected RandomFloats {
protected:
  TiledKernelTest() { generator.seed(7); }
};

struct Place {
  const char *chip;
  int64_t tile;
};
inline constexpr Place kPlaces[] = {{"sm_80", 64},   {"sm_80", 128},  {"sm_90a", 64},
                                    {"sm_90a", 128}, {"sm_90a", 256}, {"sm_100a", 64},
                                    {"sm_100a", 128}};

} // namespace moe::codegen

#endif
