// What the tests at the shapes of published models share: which kernels there are, their launches
// on whole grids or on samples of them, and comparisons of what was written.
#ifndef MOE_COMPILER_TARGETS_CUDA_TESTSHAPES_H
#define MOE_COMPILER_TARGETS_CUDA_TESTSHAPES_H

#include "compiler/targets/cuda/TestExperts.h"
#include "compiler/targets/cuda/TestLargeWeight.h"
#include "compiler/targets/cuda/TestModel.h"
#include <set>

namespace moe::codegen {

inline constexpr int64_t kLargestStep = 256;
inline constexpr int64_t kVocabulary = 202048;
inline constexpr int32_t kPagesOfSequence = 2048; // 131072 positions
inline constexpr int64_t kCacheBytes = int64_t(6) << 30;

struct ShapeCase {
  const char *model, *weights, *chip;
  int64_t tokens;
  const char *kernel; // with which names begin
  int64_t blocks = 0; // of the sample; 0: all
};

inline std::string textOf(const ShapeCase &c) {
  return std::string(c.model) + "_" + c.weights + "_" + c.chip + "_t" + std::to_string(c.tokens) +
         "_" + c.kernel;
}
inline void PrintTo(const ShapeCase &c, std::ostream *os) { *os << textOf(c); }

inline const std::vector<ModelCall> &callsOf(const ShapeCase &c) {
  static std::map<std::string, std::map<int64_t, std::vector<ModelCall>>> programs;
  auto [at, isNew] = programs.try_emplace(std::string(c.model) + " " + c.weights);
  if (isNew)
    at->second = modelCalls(c.model, c.weights, kLargestStep);
  return at->second[c.tokens];
}

inline bool isOf(const ShapeCase &c, const ModelCall &call) {
  return llvm::StringRef(call.kernel.name).starts_with(std::string(c.kernel) + "_");
}

#if defined(__x86_64__)
[[gnu::target_clones("avx512f", "avx2", "default")]]
#endif
static double dot(const float *a, const float *b, int64_t n) {
  double sums[32] = {}, all = 0; // channels are a multiple of 64
  for (int64_t i = 0; i < n; i += 32)
    for (int64_t j = 0; j < 32; ++j)
      sums[j] += double(a[i + j]) * b[i + j];
  for (double sum : sums)
    all += sum;
  return all;
}

// Rows of x times a weight, whose rows are made as they are asked for.
struct Product {
  const LargeWeight &w;
  const Floats &x;
  int64_t inputs;
  std::map<std::pair<int64_t, int64_t>, Floats> made;

  double operator()(int64_t row, int64_t matrix, int64_t output) {
    if (made.size() > 600)
      made.clear();
    auto [at, isNew] = made.try_emplace({matrix, output});
    if (isNew)
      at->second = w.row(matrix, output);
    return dot(&x[row * inputs], at->second.data(), inputs);
  }
};

class ShapesTest : public testing::TestWithParam<ShapeCase>, protected RandomFloats {
protected:
  ShapesTest() { generator.seed(uint32_t(T)); }

  const ShapeCase c = GetParam();
  const int64_t T = c.tokens;
  const cuda::StepInfo step{int32_t(T), int32_t(T), kPagesOfSequence, 0};
  PtxBench bench;

  //===--- Launches --------------------------------------------------------------------------------

  const PtxKernel &kernelOf(const ModelCall &call) const {
    static std::map<std::string, PtxKernel> kernels;
    std::string key = call.kernel.name + " " + c.chip;
    auto found = kernels.find(key);
    if (found == kernels.end())
      found = kernels.emplace(key, PtxKernel(call.kernel, c.chip)).first;
    return found->second;
  }
  int64_t gridOf(const ModelCall &call) const {
    return std::min(call.blocks, kernelOf(call).blocksPerSm * kMultiprocessors);
  }
  // Returns the pieces of work that run; `pieces` are those of the step.
  int64_t run(const ModelCall &call, const std::vector<PtxArgument> &arguments,
              int64_t pieces = 0) {
    const int64_t grid = gridOf(call);
    const std::vector<uint32_t> sample = sampleOf(grid);
    bench.sample = sample;
    bench.options.seed = T;
    bench.run(kernelOf(call), grid, arguments, step);
    bench.sample.clear();
    int64_t done = sample.empty() ? pieces : 0;
    for (uint32_t block : sample)
      done += llvm::divideCeil(std::max<int64_t>(pieces - block, 0), grid);
    return done;
  }
  std::vector<uint32_t> sampleOf(int64_t grid) const {
    std::set<uint32_t> blocks;
    const std::string text = textOf(c);
    std::seed_seq seed(text.begin(), text.end());
    std::mt19937 any(seed);
    while (!testDriver() && int64_t(blocks.size()) < std::min(c.blocks, grid))
      blocks.insert(any() % grid);
    return {blocks.begin(), blocks.end()};
  }

  //===--- Operands and results --------------------------------------------------------------------

  static Halves halves(const Floats &values) {
    Halves out;
    for (float v : values)
      out.push_back(toBf16(v));
    return out;
  }
  static Floats floats(const Halves &values) {
    Floats out;
    for (uint16_t v : values)
      out.push_back(fromBf16(v));
    return out;
  }
  // What the kernel of a call writes or works on in the step.
  PtxArgument made(const auto &contract, Operand operand) {
    return bench.made(contract, operand, {T, T});
  }
  void expectZeros(const PtxArgument &counters, const auto &contract) {
    bench.expectZeros(counters.address, contract.bytes(Operand::Counters, {T, T}));
  }
  uint64_t put(const LargeWeight &w) { return bench.room(w.bytes(), "weight", w.source()); }
  LargeWeight weight(const WeightFormat &format, int64_t matrices, int64_t rows, int64_t columns,
                     WeightLayout::Kind kind = WeightLayout::Kind::Fragments) {
    return LargeWeight(format, matrices, rows, columns, kind, generator());
  }

  static constexpr float kBefore = -7712; // what results hold before a kernel, and bf16 holds too
  // Compares elements [row][channel] that a kernel wrote, over `before`, with want(row, channel).
  // A whole grid must have written all, a sample at least `least`.
  template <class Want>
  void expectWritten(const Floats &got, const Floats &before, int64_t channels, int64_t least,
                     double relative, double absolute, Want want) {
    ASSERT_EQ(got.size(), before.size());
    int64_t written = 0, rows = got.size() / channels;
    for (int64_t channel = 0; channel < channels; ++channel)
      for (int64_t row = 0; row < rows; ++row) {
        const float value = got[row * channels + channel];
        if (value == before[row * channels + channel])
          continue;
        ++written;
        const double wanted = want(row, channel);
        ASSERT_NEAR(value, wanted, absolute + relative * std::abs(wanted))
            << "row " << row << " channel " << channel;
      }
    if (c.blocks && !testDriver())
      EXPECT_GE(written, least);
    else
      EXPECT_EQ(written, int64_t(got.size()));
  }
  static constexpr double kSumError = 5e-5; // what sums in float32 lose
  // A channel that the kernel's norm rounds to bf16 otherwise.
  static constexpr double kNormedError = 1e-3;
  static constexpr double kHalf = 1.0 / 256; // bf16 results

  static Floats normed(const Floats &h, const Floats &norm) {
    return reference::rmsNorm(h, norm, kEps);
  }

  //===--- Experts ---------------------------------------------------------------------------------

  // The first, the last and some others; in small steps three different ones at most.
  Ints chooseExperts(int64_t experts) {
    Ints chosen(T);
    for (int64_t t = 0; t < T; ++t)
      chosen[t] = t == 0   ? experts - 1
                  : t == 1 ? 0
                  : T > 8  ? generator() % experts
                           : (t % 2 ? experts - 1 : experts / 2);
    return chosen;
  }
  // A router that gives each token the expert that was chosen for it.
  Floats routerFor(const Floats &x, const Ints &chosen, int64_t experts, int64_t hidden) {
    Floats router = normal(experts * hidden, 0.003f);
    for (int64_t t = 0; t < T; ++t)
      for (int64_t i = 0; i < hidden; ++i)
        router[chosen[t] * hidden + i] += 2 * x[t * hidden + i] / hidden;
    return router;
  }
  // The most tokens of a tile (README.md), and how many tiles there are: of all tokens, and of the
  // groups of experts. A small step is one tile.
  template <class Contract>
  int64_t tileOf(const ModelCall &call, const Contract &contract,
                 const WeightFormat &format) const {
    if constexpr (requires { contract.tile; }) {
      const int64_t tile = contract.tile;
      const bool wgmma = kernelOf(call).target.wgmma && tile >= 128;
      return !format.quantized() ? tile
             : !wgmma            ? std::min<int64_t>(tile, 64)
                                 : (bitsOf(format.element) > 4 ? 96 : 128);
    } else {
      return kSmallTokens;
    }
  }
  int64_t tilesOf(int64_t tile) const { return llvm::divideCeil(T, tile); }
  static int64_t tilesOf(const Groups &g, int64_t tile) {
    int64_t tiles = 0;
    for (size_t e = 0; e + 1 < g.offsets.size(); ++e)
      tiles += llvm::divideCeil(g.offsets[e + 1] - g.offsets[e], tile);
    return tiles;
  }
};

} // namespace moe::codegen

#endif
