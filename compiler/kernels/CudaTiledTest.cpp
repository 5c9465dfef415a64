// Runs the kernels of larger steps on the simulator, at odd sizes and on all targets, against
// MoeReference. Bits must depend neither on the order in which warps run nor on the grid.
#include "compiler/targets/cuda/CudaKernels.h"
#include "compiler/targets/cuda/TestPtx.h"
#include "dialects/moe/MoeReference.h"
#include <numeric>
#include <random>

using namespace moe;
using namespace moe::codegen;

namespace {

using Floats = std::vector<float>;
using Ints = std::vector<int32_t>;
using Halves = std::vector<uint16_t>;

constexpr float kEps = 1e-5f;
constexpr int kRegisters = 168; // of 384 threads

struct TiledKernels : testing::Test {
  std::mt19937 generator{7};

  Floats random(size_t n, float scale = 1) { return normalFloats(generator, n, scale); }
  Floats rounded(size_t n, float scale = 1) { return normalBf16(generator, n, scale); }

  // Rows of n channels, padded: with zeros in bf16, with a pattern in float32.
  static Halves bf16Rows(const Floats &values, int64_t n) {
    Halves rows(values.size() / n * padded(n));
    for (size_t i = 0; i < values.size(); ++i)
      rows[i / n * padded(n) + i % n] = toBf16(values[i]);
    return rows;
  }
  static constexpr float kPadding = -77;
  static Floats f32Rows(const Floats &values, int64_t n) {
    Floats rows(values.size() / n * padded(n), kPadding);
    for (size_t i = 0; i < values.size(); ++i)
      rows[i / n * padded(n) + i % n] = values[i];
    return rows;
  }
  // The channels of padded rows; the padding must be what it was.
  static Floats valuesOf(const Floats &rows, int64_t n) {
    Floats values;
    for (size_t i = 0; i < rows.size(); ++i)
      if (int64_t(i) % padded(n) < n)
        values.push_back(rows[i]);
      else
        EXPECT_EQ(rows[i], kPadding) << "padding at " << i;
    return values;
  }
  static Floats valuesOf(const Halves &rows, int64_t n) {
    Floats values;
    for (size_t i = 0; i < rows.size(); ++i)
      if (int64_t(i) % padded(n) < n)
        values.push_back(fromBf16(rows[i]));
      else
        EXPECT_EQ(rows[i], 0) << "padding at " << i;
    return values;
  }

  // Relative to the largest value.
  static void expectNear(const Floats &got, const Floats &want, double tolerance) {
    ASSERT_EQ(got.size(), want.size());
    double largest = 0, error = 0;
    size_t worst = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_TRUE(std::isfinite(got[i])) << "element " << i;
      largest = std::max(largest, std::abs(double(want[i])));
      double e = std::abs(double(got[i]) - want[i]);
      if (e > error)
        error = e, worst = i;
    }
    EXPECT_LE(error, tolerance * largest)
        << "element " << worst << ": " << got[worst] << ", not " << want[worst];
  }

  // Runs `once` with different seeds and grids: {seed, blocks} -> the bytes that it wrote.
  template <class F> static auto sameBits(int64_t most, F once) {
    auto first = once(0, most);
    if (testing::Test::HasFailure())
      return first;
    for (auto [seed, blocks] : std::vector<std::pair<uint64_t, int64_t>>{{1, 1}, {2, 3}})
      EXPECT_EQ(first, once(seed, std::min(blocks, most))) << "seed " << seed;
    return first;
  }
};

constexpr float kF32 = 5e-6f, kRounded = 5e-3f; // tolerances

//===----------------------------------------------------------------------===//
// Norm and router
//===----------------------------------------------------------------------===//

TEST_F(TiledKernels, Norm) {
  for (int64_t hidden : {40, 64, 97, 1030, 5120})
    for (bool gather : {false, true}) {
      PtxKernel kernel({NormSpec{hidden, Storage::BF16, kEps, gather}, 64}, emitNorm,
                       gather ? "sm_80" : "sm_90a");
      kernel.expectAssembles(64);
      int32_t tokens = hidden > 1000 ? 3 : 19;
      Floats h = random(tokens * hidden, 3), norm = random(hidden);
      Ints rows{1, 0, 2, 2, 0};
      Floats chosen = gather ? reference::selectRows(h, rows, hidden) : h;
      int32_t n = chosen.size() / hidden;
      Halves x = sameBits(n, [&](uint64_t seed, int64_t blocks) {
        PtxBench bench;
        bench.options.seed = seed;
        std::vector<uint64_t> operands{bench.put(f32Rows(h, hidden)), bench.put(norm),
                                       bench.room(n * padded(hidden) * 2)};
        if (gather)
          operands.insert(operands.begin(), bench.put(rows));
        bench.run(kernel, blocks, operands, {tokens, int32_t(rows.size()), 0, 0});
        return bench.get<uint16_t>(operands.back(), n * padded(hidden));
      });
      expectNear(valuesOf(x, hidden), reference::rmsNorm(chosen, norm, kEps), kRounded);
    }
}

TEST_F(TiledKernels, Router) {
  struct Case {
    int64_t hidden, experts;
    int32_t tokens;
    const char *chip;
  };
  for (auto [hidden, experts, tokens, chip] :
       {Case{40, 1, 9, "sm_90a"}, Case{97, 3, 130, "sm_80"}, Case{136, 16, 65, "sm_90a"},
        Case{1100, 16, 17, "sm_90a"}, Case{260, 128, 300, "sm_90a"}, Case{64, 256, 40, "sm_80"},
        Case{64, 5, 1, "sm_90a"}}) {
    PtxKernel kernel({RouterSpec{hidden, experts, Storage::BF16, kEps}, 64}, emitRouter, chip);
    kernel.expectAssembles(255);
    Floats h = random(tokens * hidden), norm = random(hidden);
    Floats router = random(experts * hidden, 0.1f);
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
    Result got = sameBits(tokens, [&, hidden = hidden, experts = experts,
                                   tokens = tokens](uint64_t seed, int64_t blocks) {
      PtxBench bench;
      bench.options.seed = seed;
      std::vector<uint64_t> operands{bench.put(f32Rows(h, hidden)),
                                     bench.put(norm),
                                     bench.put(router),
                                     bench.room(tokens * padded(hidden) * 2),
                                     bench.room(tokens * 4),
                                     bench.room(tokens * 4),
                                     bench.room(tokens * 4),
                                     bench.room((experts + 1) * 4),
                                     bench.put(Ints{0})};
      bench.run(kernel, blocks, operands, {tokens, 0, 0, 0});
      if (HasFailure())
        return Result{};
      EXPECT_EQ(bench.get<int32_t>(operands[8], 1), Ints{0});
      return Result{
          bench.get<uint16_t>(operands[3], tokens * padded(hidden)),
          bench.get<int32_t>(operands[4], tokens), bench.get<int32_t>(operands[6], tokens),
          bench.get<int32_t>(operands[7], experts + 1), bench.get<float>(operands[5], tokens)};
    });
    if (HasFailure())
      return;
    expectNear(valuesOf(got.x, hidden), normed, kRounded);
    expectNear(got.scores, routing.scores, 1e-5);
    for (int32_t t = 0; t < tokens; ++t) {
      float best = logits[t * experts + routing.experts[t]];
      EXPECT_NEAR(logits[t * experts + got.experts[t]], best, 1e-5) << "token " << t;
      EXPECT_TRUE(experts == 1 || got.experts[t] != experts - 1) << "a tie went to the higher";
    }
    Ints order(tokens), offsets(experts + 1);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return got.experts[a] < got.experts[b]; });
    for (int32_t e : got.experts)
      ++offsets[e + 1];
    std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
    EXPECT_EQ(got.order, order);
    EXPECT_EQ(got.offsets, offsets);
  }
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

struct Place {
  const char *chip;
  int64_t tile;
};
constexpr Place kPlaces[] = {{"sm_80", 64},   {"sm_80", 128},  {"sm_90a", 64},  {"sm_90a", 128},
                             {"sm_90a", 256}, {"sm_100a", 64}, {"sm_100a", 128}};

TEST_F(TiledKernels, Linear) {
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
      PtxKernel kernel({LinearSpec{inputs, outputs, format}, tile}, emitTiledLinear, chip);
      kernel.expectAssembles(kRegisters);
      TestWeight w = testWeight(generator, format, 1, outputs, inputs, 0.1f);
      std::vector<int32_t> counts{1, 9, 17, 63, 64, 65, 130};
      if (format.quantized())
        counts = {9, 130};
      for (int32_t n : counts) {
        Floats x = rounded(n * inputs);
        Floats out =
            sameBits(9, [&, inputs = inputs, outputs = outputs](uint64_t seed, int64_t blocks) {
              PtxBench bench;
              bench.options.seed = seed;
              std::vector<uint64_t> operands{bench.put(bf16Rows(x, inputs)), bench.put(w.bytes),
                                             bench.room(n * outputs * 4)};
              bench.run(kernel, blocks, operands, {n, 3, 0, 0});
              EXPECT_EQ(bench.stats.sharedConflicts, 0u);
              return bench.get<float>(operands[2], n * outputs);
            });
        expectNear(out, reference::linear(x, w.values, inputs), kF32);
        if (HasFailure())
          return;
      }
    }
}

// The same product for the rows of logits; SampleTest.cpp has its ids.
TEST_F(TiledKernels, Head) {
  for (auto [chip, tile] : kPlaces)
    for (auto [format, inputs] : {std::pair{kBf16, 40}, std::pair{kInt8Small, 192}}) {
      if (format.quantized() && tile > 128)
        continue;
      int64_t outputs = 130;
      CudaSpec spec{HeadSpec{inputs, outputs, format, 0}, tile};
      PtxKernel kernel(spec, emitTiledLinear, chip);
      kernel.expectAssembles(kRegisters);
      TestWeight w = testWeight(generator, format, 1, outputs, inputs, 0.1f);
      for (int32_t n : {1, 65, 130}) {
        Floats x = rounded(n * inputs);
        cuda::RowSampling wanted{};
        wanted.flags = cuda::RowSampling::writesLogits;
        Floats out = sameBits(9, [&, inputs = inputs](uint64_t seed, int64_t blocks) {
          PtxBench bench;
          bench.options.seed = seed;
          std::vector<uint64_t> operands{bench.put(bf16Rows(x, inputs)),
                                         bench.put(std::vector<cuda::RowSampling>(n, wanted)),
                                         bench.put(w.bytes),
                                         bench.room(n * outputs * 4),
                                         bench.room(n * 4),
                                         bench.put(std::vector<uint8_t>(counterBytes(spec, n)))};
          bench.run(kernel, blocks, operands, {7, n, 0, 0});
          EXPECT_EQ(bench.stats.sharedConflicts, 0u);
          return bench.get<float>(operands[3], n * outputs);
        });
        expectNear(out, reference::linear(x, w.values, inputs), kF32);
        if (HasFailure())
          return;
      }
    }
}

TEST_F(TiledKernels, Instructions) {
  for (auto [chip, tile] : kPlaces) {
    PtxKernel kernel({LinearSpec{5120, 7168, kBf16}, tile}, emitTiledLinear, chip);
    auto has = [&](llvm::StringRef text) { return llvm::StringRef(kernel.ptx).contains(text); };
    bool wgmma = kernel.target.wgmma && tile >= 128;
    EXPECT_EQ(has("wgmma.mma_async"), wgmma) << kernel.name << " on " << chip;
    EXPECT_EQ(has("mma.sync"), !wgmma) << kernel.name << " on " << chip;
    EXPECT_EQ(has("cp.async.bulk"), kernel.target.bulkCopies);
    EXPECT_TRUE(has("ld.shared.v4.b32"));
    for (const char *bad : {".local", "ld.b32", "st.b32", "ld.v4", "call", "ld.shared.b32"})
      EXPECT_FALSE(has(bad)) << bad << " in " << kernel.name << " on " << chip;
  }
}

TEST_F(TiledKernels, LinearResidual) {
  for (auto [chip, tile] : kPlaces) {
    int64_t inputs = 96, outputs = 200;
    PtxKernel kernel({LinearResidualSpec{inputs, outputs, kBf16}, tile}, emitTiledLinear, chip);
    kernel.expectAssembles(kRegisters);
    Floats w = rounded(outputs * inputs, 0.1f);
    Halves packed = toFragments(w, outputs, inputs);
    for (int32_t n : {1, 33, 130}) {
      Floats x = rounded(n * inputs), before = random(n * outputs);
      Floats h = sameBits(7, [&](uint64_t seed, int64_t blocks) {
        PtxBench bench;
        bench.options.seed = seed;
        std::vector<uint64_t> operands{bench.put(bf16Rows(x, inputs)), bench.put(packed),
                                       bench.put(f32Rows(before, outputs))};
        bench.run(kernel, blocks, operands, {n, 0, 0, 0});
        return bench.get<float>(operands[2], n * padded(outputs));
      });
      expectNear(valuesOf(h, outputs), reference::linearResidual(x, w, before, inputs), kF32);
      if (HasFailure())
        return;
    }
  }
}

//===----------------------------------------------------------------------===//
// The feed-forward half of a layer
//===----------------------------------------------------------------------===//

struct TiledFeedForward : TiledKernels {
  int64_t hidden, width, experts;
  WeightFormat format;
  std::vector<TestWeight> gateUp, down; // of the shared expert or the dense layer; of the routed

  void make(int64_t h, int64_t w, int64_t e, const WeightFormat &f = kBf16) {
    hidden = h, width = w, experts = e, format = f;
    gateUp.clear();
    down.clear();
    for (int64_t matrices : e ? std::vector<int64_t>{1, e} : std::vector<int64_t>{1}) {
      gateUp.push_back(testWeight(generator, f, matrices, 2 * w, h, 1 / std::sqrt(float(h)),
                                  Layout::FragmentsGateUp));
      down.push_back(testWeight(generator, f, matrices, h, w, 1 / std::sqrt(float(w))));
    }
  }
  // Matrix 0 is the shared expert's.
  static reference::View matrixOf(const std::vector<TestWeight> &w, int64_t m) {
    int64_t size = w[0].values.size();
    return reference::View(w[m ? 1 : 0].values).subspan(m ? (m - 1) * size : 0, size);
  }
  reference::View gateUpOf(int64_t m) const { return matrixOf(gateUp, m); }
  reference::View downOf(int64_t m) const { return matrixOf(down, m); }
  GateUpSpec gateUpSpec() const { return {hidden, width, experts, 1, format, format, kEps}; }
  DownSpec downSpec() const { return {hidden, width, experts, 1, format, format}; }

  // One row through an expert's gate and up.
  Floats wide(reference::View x, int64_t matrix, float score) const {
    Floats both = reference::linear(x, gateUpOf(matrix), hidden);
    for (float &v : both)
      v *= score;
    return reference::swiglu(reference::View(both).first(width), reference::View(both).last(width));
  }

  struct Step {
    int32_t tokens;
    Ints chosen, order, offsets;
    Floats scores, x, before;
  };
  Step step(Ints chosen) {
    Step s{int32_t(chosen.size()), chosen, Ints(chosen.size()), Ints(experts + 1), {}, {}, {}};
    std::iota(s.order.begin(), s.order.end(), 0);
    std::stable_sort(s.order.begin(), s.order.end(),
                     [&](int a, int b) { return chosen[a] < chosen[b]; });
    if (experts)
      for (int32_t e : chosen)
        ++s.offsets[e + 1];
    std::partial_sum(s.offsets.begin(), s.offsets.end(), s.offsets.begin());
    std::uniform_real_distribution<float> uniform(0.1f, 1);
    for (int32_t t = 0; t < s.tokens; ++t)
      s.scores.push_back(uniform(generator));
    s.x = rounded(s.tokens * hidden);
    s.before = random(s.tokens * hidden);
    return s;
  }
  Ints anyExperts(int32_t tokens) {
    std::uniform_int_distribution<int32_t> any(0, std::max<int64_t>(experts, 1) - 1);
    Ints chosen(tokens);
    for (int32_t &e : chosen)
      e = any(generator);
    return chosen;
  }

  Halves runGateUp(const PtxKernel &kernel, const Step &s, uint64_t seed, int64_t blocks,
                   bool races = true) {
    PtxBench bench;
    bench.options.seed = seed;
    bench.options.races = races;
    int64_t rows = (experts ? 2 : 1) * s.tokens;
    std::vector<uint64_t> operands{bench.put(bf16Rows(s.x, hidden), "x")};
    if (experts)
      for (uint64_t o : {bench.put(s.scores, "scores"), bench.put(s.order, "order"),
                         bench.put(s.offsets, "offsets")})
        operands.push_back(o);
    for (const TestWeight &w : gateUp)
      operands.push_back(bench.put(w.bytes, "weight"));
    operands.push_back(bench.room(rows * padded(width) * 2, "hidden"));
    bench.run(kernel, blocks, operands, {s.tokens, 0, 0, 0});
    return HasFailure() ? Halves() : bench.get<uint16_t>(operands.back(), rows * padded(width));
  }
  Floats runDown(const PtxKernel &kernel, const Step &s, const Halves &wide, uint64_t seed,
                 int64_t blocks, bool races = true) {
    PtxBench bench;
    bench.options.seed = seed;
    bench.options.races = races;
    std::vector<uint64_t> operands{bench.put(wide, "hidden")};
    if (experts)
      for (uint64_t o : {bench.put(s.order, "order"), bench.put(s.offsets, "offsets")})
        operands.push_back(o);
    for (const TestWeight &w : down)
      operands.push_back(bench.put(w.bytes, "weight"));
    operands.push_back(bench.put(f32Rows(s.before, hidden), "h"));
    bench.run(kernel, blocks, operands, {s.tokens, 0, 0, 0});
    return HasFailure() ? Floats() : bench.get<float>(operands.back(), s.tokens * padded(hidden));
  }

  void expectHidden(const Step &s, const Halves &got) {
    Floats want;
    for (int32_t m = 0; m < (experts ? 2 : 1); ++m)
      for (int32_t t = 0; t < s.tokens; ++t) {
        Floats row = wide(reference::View(s.x).subspan(t * hidden, hidden), m ? 1 + s.chosen[t] : 0,
                          m ? s.scores[t] : 1);
        want.insert(want.end(), row.begin(), row.end());
      }
    expectNear(valuesOf(got, width), want, kRounded);
  }
  void expectDown(const Step &s, const Halves &wide, const Floats &got) {
    Floats rows = valuesOf(wide, width), want = s.before;
    for (int32_t m = 0; m < (experts ? 2 : 1); ++m)
      for (int32_t t = 0; t < s.tokens; ++t) {
        Floats y =
            reference::linear(reference::View(rows).subspan((m * s.tokens + t) * width, width),
                              downOf(m ? 1 + s.chosen[t] : 0), width);
        for (int64_t c = 0; c < hidden; ++c)
          want[t * hidden + c] += y[c];
      }
    expectNear(valuesOf(got, hidden), want, kF32);
  }

  void check(Place place, const std::vector<Ints> &choices) {
    PtxKernel up({gateUpSpec(), place.tile}, emitTiledLinear, place.chip);
    PtxKernel back({downSpec(), place.tile}, emitTiledLinear, place.chip);
    up.expectAssembles(kRegisters);
    back.expectAssembles(kRegisters);
    for (const Ints &chosen : choices) {
      Step s = step(chosen);
      Halves wide = sameBits(
          11, [&](uint64_t seed, int64_t blocks) { return runGateUp(up, s, seed, blocks); });
      if (HasFailure())
        return;
      expectHidden(s, wide);
      Floats h = sameBits(
          11, [&](uint64_t seed, int64_t blocks) { return runDown(back, s, wide, seed, blocks); });
      if (HasFailure())
        return;
      expectDown(s, wide, h);
    }
  }
};

constexpr Place kSomePlaces[] = {{"sm_80", 128}, {"sm_90a", 64}, {"sm_90a", 256}, {"sm_100a", 128}};

TEST_F(TiledFeedForward, Dense) {
  make(96, 40, 0);
  for (Place place : kSomePlaces)
    check(place, {Ints(20), Ints(130)});
}

TEST_F(TiledFeedForward, Experts) {
  make(72, 136, 3);
  for (Place place : kSomePlaces)
    check(place, {anyExperts(130)});
  check({"sm_90a", 64}, {{1}, anyExperts(9), anyExperts(65), Ints(63, 2)});
  check({"sm_90a", 128}, {anyExperts(9), Ints(200, 2)});
}

TEST_F(TiledFeedForward, Codes) {
  make(128, 256, 3, kInt4);
  for (Place place :
       {Place{"sm_80", 128}, {"sm_80", 64}, {"sm_90a", 64}, {"sm_90a", 128}, {"sm_100a", 128}})
    check(place, {anyExperts(130)});
  make(96, 64, 0, kInt4Zeros);
  check({"sm_90a", 128}, {Ints(20), Ints(130)});
  make(64, 128, 2, kInt8Small);
  check({"sm_90a", 64}, {anyExperts(40)});
}

TEST_F(TiledFeedForward, OneExpert) {
  make(64, 64, 1);
  check({"sm_90a", 64}, {Ints(1), Ints(64), Ints(130)});
}

TEST_F(TiledFeedForward, ManyExperts) {
  make(40, 24, 128);
  check({"sm_90a", 64}, {anyExperts(17), anyExperts(130), Ints(64, 127), Ints(65, 0)});
  make(40, 24, 16);
  check({"sm_80", 64}, {anyExperts(64)});
}

TEST_F(TiledFeedForward, ScoutInt4) {
  make(5120, 128, 2, kInt4);
  for (auto [tile, tokens] : {std::pair{64, 40}, {128, 150}}) {
    PtxKernel up({gateUpSpec(), tile}, emitTiledLinear);
    up.expectAssembles(kRegisters);
    Step s = step(anyExperts(tokens));
    expectHidden(s, runGateUp(up, s, 3, 5, false));
  }
}

// Scout's and Maverick's K, on few rows: as many stages as in earnest. In a batch of 64 and, by
// wgmma, in a prompt of 256.
TEST_F(TiledFeedForward, ScoutGateUp) {
  make(5120, 64, 16);
  for (auto [chip, tile, tokens] : {std::tuple{"sm_90a", 64, 64}, {"sm_90a", 256, 256}}) {
    PtxKernel up({gateUpSpec(), tile}, emitTiledLinear, chip);
    up.expectAssembles(kRegisters);
    Step s = step(anyExperts(tokens));
    expectHidden(s, runGateUp(up, s, 3, 5, false));
  }
}

TEST_F(TiledFeedForward, ScoutDown) {
  make(128, 8192, 16);
  PtxKernel down({downSpec(), 64}, emitTiledLinear);
  Step s = step(anyExperts(32));
  Halves wide = bf16Rows(rounded(2 * s.tokens * width), width);
  expectDown(s, wide, runDown(down, s, wide, 3, 4, false));
}

TEST_F(TiledFeedForward, MaverickDenseDown) {
  make(128, 16384, 0);
  PtxKernel down({downSpec(), 128}, emitTiledLinear);
  Step s = step(Ints(64));
  Halves wide = bf16Rows(rounded(s.tokens * width), width);
  expectDown(s, wide, runDown(down, s, wide, 3, 4, false));
}

} // namespace
