// Runs the kernels of small steps on the simulator against plain loops in double precision.
#include "compiler/targets/cuda/CudaKernels.h"
#include "compiler/targets/cuda/TestPtx.h"
#include <cmath>
#include <random>

using namespace moe;
using namespace moe::codegen;

namespace {

using Floats = std::vector<float>;

std::vector<uint16_t> bf16(const Floats &v) {
  std::vector<uint16_t> out;
  for (float x : v)
    out.push_back(toBf16(x));
  return out;
}

// Rows of `columns` values in rows of `stride`; what pads them is `padding`.
Floats padRows(const Floats &v, int64_t columns, int64_t stride, float padding = 0) {
  Floats out;
  for (size_t row = 0; row * columns < v.size(); ++row) {
    out.insert(out.end(), v.begin() + row * columns, v.begin() + (row + 1) * columns);
    out.insert(out.end(), stride - columns, padding);
  }
  return out;
}

// What the kernels multiply: the normalised row, rounded to bf16.
Floats normed(const Floats &h, const Floats &g, int64_t n, float eps, bool rounded = true) {
  Floats out;
  for (size_t row = 0; row < h.size() / n; ++row) {
    double squares = 0;
    for (int64_t c = 0; c < n; ++c)
      squares += double(h[row * n + c]) * h[row * n + c];
    float scale = 1 / std::sqrt(float(squares / n) + eps);
    for (int64_t c = 0; c < n; ++c) {
      float y = h[row * n + c] * scale * g[c];
      out.push_back(rounded ? fromBf16(toBf16(y)) : y);
    }
  }
  return out;
}

// x [T, k] times transpose(w [n, k]).
std::vector<double> product(const Floats &x, const float *w, int64_t n, int64_t k) {
  std::vector<double> y;
  for (size_t t = 0; t < x.size() / k; ++t)
    for (int64_t row = 0; row < n; ++row) {
      double sum = 0;
      for (int64_t c = 0; c < k; ++c)
        sum += double(x[t * k + c]) * w[row * k + c];
      y.push_back(sum);
    }
  return y;
}

template <class A, class B>
void expectNear(const A &got, const B &want, double tolerance, const char *what) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], want[i], tolerance * (1 + std::abs(want[i]))) << what << " at " << i;
}

struct Case {
  const char *chip;
  int64_t tokens, blocks;
};
void PrintTo(const Case &c, std::ostream *os) {
  *os << c.chip << " " << c.tokens << " tokens " << c.blocks << " blocks";
}

class SmallKernels : public testing::TestWithParam<Case> {
protected:
  const char *chip = GetParam().chip;
  int64_t T = GetParam().tokens, blocks = GetParam().blocks;
  PtxBench bench;
  std::mt19937 generator{uint32_t(T * 7 + blocks)};
  Floats normal(size_t n, float scale = 1) { return normalFloats(generator, n, scale); }
  Floats rounded(size_t n, float scale = 1) { return normalBf16(generator, n, scale); }
  cuda::StepInfo step{int32_t(T), int32_t(T), 1, 0};
  uint64_t zeros(int64_t bytes) {
    return bench.put(std::vector<uint8_t>(std::max<int64_t>(bytes, 4)));
  }
};

INSTANTIATE_TEST_SUITE_P(All, SmallKernels,
                         testing::Values(Case{"sm_90a", 1, 1}, Case{"sm_90a", 1, 7},
                                         Case{"sm_90a", 3, 5}, Case{"sm_90a", 8, 4},
                                         Case{"sm_80", 1, 3}, Case{"sm_80", 8, 5},
                                         Case{"sm_100a", 5, 3}));

TEST_P(SmallKernels, Embed) {
  for (auto [format, hidden] :
       {std::pair{kBf16, 70}, {kInt8, 256}, {kInt4Zeros, 96}, {kFp8, 128}}) {
    int64_t vocabulary = 11;
    TestWeight table = testWeight(generator, format, 1, vocabulary, hidden, 1, Layout::Rows);
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < T; ++t)
      ids.push_back(generator() % vocabulary);
    PtxKernel kernel({EmbedSpec{hidden, format}}, emitEmbed, chip);
    uint64_t h = bench.put(Floats(T * padded(hidden), 7));
    bench.run(kernel, blocks, {bench.put(ids), bench.put(table.bytes), h}, step);
    Floats got = bench.get<float>(h, T * padded(hidden));
    for (int64_t t = 0; t < T; ++t)
      for (int64_t c = 0; c < hidden; ++c)
        ASSERT_EQ(got[t * padded(hidden) + c], table.values[ids[t] * hidden + c])
            << nameOf(format) << " channel " << c;
    kernel.expectAssembles(32);
  }
}

TEST_P(SmallKernels, RopeTable) {
  RopeTableSpec spec;
  for (int j = 0; j < 33; ++j)
    spec.frequencies.push_back(std::pow(500000.0, -j / 33.0));
  std::vector<int32_t> positions;
  for (int64_t t = 0; t < T; ++t)
    positions.push_back(generator() % 1000000);
  PtxKernel kernel({spec}, emitRopeTable, chip);
  int64_t stride = padded(66);
  uint64_t table = bench.put(Floats(T * stride, 7));
  bench.run(kernel, blocks, {bench.put(positions), table}, step);
  Floats got = bench.get<float>(table, T * stride);
  for (int64_t t = 0; t < T; ++t)
    for (int j = 0; j < 33; ++j) {
      double angle = float(positions[t]) * spec.frequencies[j];
      ASSERT_NEAR(got[t * stride + 2 * j], std::cos(angle), 2e-7);
      ASSERT_NEAR(got[t * stride + 2 * j + 1], std::sin(angle), 2e-7);
    }
}

TEST_P(SmallKernels, Qkv) {
  for (auto [hidden, rows, splits, format] : {std::tuple{64, 48, 1, kBf16},
                                              {200, 40, 1, kBf16},
                                              {1600, 80, 2, kBf16},
                                              {128, 16, 1, kInt4},
                                              {2304, 40, 2, kInt4},
                                              {1632, 40, 3, kInt4Zeros},
                                              {1280, 24, 1, kInt8},
                                              {192, 40, 2, kInt8Small},
                                              {256, 24, 1, kFp8}}) {
    Floats h = normal(T * hidden), g = normal(hidden);
    TestWeight w = testWeight(generator, format, 1, rows, hidden, 1 / std::sqrt(hidden));
    PtxKernel kernel({CudaQkvSpec{hidden, rows, format, 1e-5f}, kSmallTokens, splits},
                     emitSmallLinear, chip);
    uint64_t sums = bench.room(splits * T * rows * 4);
    bench.run(kernel, blocks,
              {bench.put(padRows(h, hidden, padded(hidden), NAN)), bench.put(g), bench.put(w.bytes),
               sums},
              step);
    Floats parts = bench.get<float>(sums, splits * T * rows), got(T * rows);
    for (size_t i = 0; i < parts.size(); ++i)
      got[i % got.size()] += parts[i];
    // Longer rows may have a channel that rounds the other way here.
    expectNear(got, product(normed(h, g, hidden, 1e-5f), w.values.data(), rows, hidden),
               hidden < 1000 ? 3e-5 : 1e-3, kernel.name.c_str());
  }
}

TEST_P(SmallKernels, Head) {
  int64_t hidden = 136, vocabulary = 75;
  Floats h = normal(T * hidden), g = normal(hidden), w = rounded(vocabulary * hidden, 0.1f);
  std::vector<int32_t> rows;
  Floats wanted;
  for (int64_t r = 0; r < T; r += 2) {
    rows.push_back(T - 1 - r);
    wanted.insert(wanted.end(), h.begin() + rows.back() * hidden,
                  h.begin() + (rows.back() + 1) * hidden);
  }
  PtxKernel kernel({HeadSpec{hidden, vocabulary, kBf16, 1e-5f}}, emitSmallLinear, chip);
  uint64_t logits = bench.put(Floats(T * vocabulary, 7));
  cuda::RowSampling wantsLogits{};
  wantsLogits.flags = cuda::RowSampling::writesLogits;
  std::vector<uint64_t> operands{bench.put(rows),
                                 bench.put(std::vector<cuda::RowSampling>(T, wantsLogits)),
                                 bench.put(padRows(h, hidden, padded(hidden))),
                                 bench.put(g),
                                 bench.put(toFragments(w, vocabulary, hidden)),
                                 logits,
                                 bench.room(T * 4),
                                 zeros(8 + T * 8)};
  step.rows = rows.size();
  bench.run(kernel, blocks, operands, step);
  Floats got = bench.get<float>(logits, T * vocabulary);
  for (size_t i = rows.size() * vocabulary; i < got.size(); ++i)
    ASSERT_EQ(got[i], 7);
  got.resize(rows.size() * vocabulary);
  expectNear(got, product(normed(wanted, g, hidden, 1e-5f), w.data(), vocabulary, hidden), 3e-5,
             "head");
  step.rows = 0; // nothing to do, and nothing hangs
  bench.run(kernel, blocks, operands, step);
}

TEST_P(SmallKernels, LinearResidual) {
  for (auto [inputs, outputs, splits, format] : {std::tuple{64, 64, 1, kBf16},
                                                 {200, 40, 1, kBf16},
                                                 {2048, 72, 4, kBf16},
                                                 {3072, 72, 4, kInt4},
                                                 {96, 40, 1, kInt4Zeros}}) {
    Floats x = rounded(T * inputs), h = normal(T * outputs);
    TestWeight w = testWeight(generator, format, 1, outputs, inputs, 1 / std::sqrt(inputs));
    CudaSpec spec{LinearResidualSpec{inputs, outputs, format}, kSmallTokens, splits};
    PtxKernel kernel(spec, emitSmallLinear, chip);
    auto want = product(x, w.values.data(), outputs, inputs);
    for (size_t i = 0; i < want.size(); ++i)
      want[i] += h[i];
    Floats first;
    for (uint64_t seed : {0, 1, 2}) {
      bench.options.seed = seed;
      uint64_t to = bench.put(padRows(h, outputs, padded(outputs), 3)),
               counters = zeros(counterBytes(spec));
      bench.run(kernel, blocks,
                {bench.put(bf16(padRows(x, inputs, padded(inputs)))), bench.put(w.bytes), to,
                 bench.room(partialBytes(spec)), counters},
                step);
      Floats all = bench.get<float>(to, T * padded(outputs)), got;
      for (size_t i = 0; i < all.size(); ++i)
        if (int64_t(i % padded(outputs)) < outputs)
          got.push_back(all[i]);
      expectNear(got, want, 3e-5, "linear_residual");
      for (uint8_t byte : bench.get<uint8_t>(counters, counterBytes(spec)))
        ASSERT_EQ(byte, 0);
      if (first.empty())
        first = got;
      ASSERT_EQ(got, first) << "seed " << seed;
    }
  }
}

// A MoE block, or without experts a dense one: gate_up, then down.
TEST_P(SmallKernels, GateUpAndDown) {
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
    Floats h = normal(T * hidden), g = normal(hidden), router = normal(experts * hidden);
    float in = 1 / std::sqrt(float(hidden)), back = 1 / std::sqrt(float(width));
    auto weights = [&](int64_t rows, int64_t columns, float size, Layout layout) {
      std::vector<TestWeight> w{testWeight(generator, shared, 1, rows, columns, size, layout)};
      if (experts)
        w.push_back(testWeight(generator, routed, experts, rows, columns, size, layout));
      return w;
    };
    auto gateUp = weights(2 * width, hidden, in, Layout::FragmentsGateUp),
         down = weights(hidden, width, back, Layout::Fragments);
    // Matrix 0 is the shared expert's.
    auto matrix = [&](const std::vector<TestWeight> &w, int64_t m) {
      return m ? w[1].values.data() + (m - 1) * w[0].values.size() : w[0].values.data();
    };

    // The reference.
    Floats x = normed(h, g, hidden, 1e-5f), exact = normed(h, g, hidden, 1e-5f, false);
    auto logits = product(exact, router.data(), experts, hidden);
    std::vector<int32_t> chosen;
    std::vector<double> scores;
    for (int64_t t = 0; t < T && experts; ++t) {
      auto begin = logits.begin() + t * experts, best = std::max_element(begin, begin + experts);
      chosen.push_back(best - begin);
      scores.push_back(1 / (1 + std::exp(-*best)));
    }
    Floats wide; // the shared rows, then the routed ones
    auto expert = [&](int64_t t, int64_t m, double score) {
      Floats row(x.begin() + t * hidden, x.begin() + (t + 1) * hidden);
      auto y = product(row, matrix(gateUp, m), 2 * width, hidden);
      for (int64_t j = 0; j < width; ++j) {
        double gate = score * y[j], up = score * y[width + j];
        wide.push_back(gate / (1 + std::exp(-gate)) * up);
      }
    };
    for (int64_t t = 0; t < T; ++t)
      expert(t, 0, 1);
    for (int64_t t = 0; t < T && experts; ++t)
      expert(t, 1 + chosen[t], scores[t]);

    CudaSpec spec{GateUpSpec{hidden, width, experts, 1, shared, routed, 1e-5f}};
    PtxKernel kernel(spec, emitSmallGateUp, chip);
    int64_t rows = experts ? 2 * T : T;
    uint64_t hAddress = bench.put(padRows(h, hidden, padded(hidden), NAN)),
             wideAddress = bench.room(rows * padded(width) * 2);
    uint64_t counters = zeros(8), expertsAddress = bench.room(T * 4);
    std::vector<uint64_t> operands{hAddress, bench.put(g)};
    if (experts)
      operands.push_back(bench.put(router));
    for (const TestWeight &w : gateUp)
      operands.push_back(bench.put(w.bytes));
    operands.push_back(wideAddress);
    if (experts)
      operands.insert(operands.end(), {expertsAddress, bench.room(experts * 8 * 4), counters});
    bench.options.seed = T;
    bench.run(kernel, blocks, operands, step);
    auto bits = bench.get<uint16_t>(wideAddress, rows * padded(width));
    Floats got, rounded;
    for (size_t i = 0; i < bits.size(); ++i)
      if (int64_t(i % padded(width)) < width)
        got.push_back(fromBf16(bits[i]));
      else
        ASSERT_EQ(bits[i], 0) << "padding at " << i;
    expectNear(got, wide, 1.0 / 128, "gate_up");
    for (uint8_t byte : bench.get<uint8_t>(counters, 8))
      ASSERT_EQ(byte, 0);
    if (experts)
      ASSERT_EQ(bench.get<int32_t>(expertsAddress, T), chosen);

    // Down, from what gate_up wrote.
    CudaSpec downSpec{DownSpec{hidden, width, experts, 1, shared, routed}, kSmallTokens, splits};
    PtxKernel downKernel(downSpec, emitSmallLinear, chip);
    std::vector<double> want(h.begin(), h.end());
    for (int64_t row = 0; row < rows; ++row) {
      int64_t t = row % T, m = row < T ? 0 : 1 + chosen[t];
      Floats one(got.begin() + row * width, got.begin() + (row + 1) * width);
      auto y = product(one, matrix(down, m), hidden, width);
      for (int64_t c = 0; c < hidden; ++c)
        want[t * hidden + c] += y[c];
    }
    operands = {wideAddress};
    if (experts)
      operands.push_back(expertsAddress);
    uint64_t downCounters = zeros(counterBytes(downSpec));
    for (const TestWeight &w : down)
      operands.push_back(bench.put(w.bytes));
    operands.insert(operands.end(), {hAddress, bench.room(partialBytes(downSpec)), downCounters});
    bench.run(downKernel, blocks, operands, step);
    Floats after;
    for (auto [i, v] : llvm::enumerate(bench.get<float>(hAddress, T * padded(hidden))))
      if (int64_t(i % padded(hidden)) < hidden)
        after.push_back(v);
    expectNear(after, want, 3e-5, "down");
    for (uint8_t byte : bench.get<uint8_t>(downCounters, counterBytes(downSpec)))
      ASSERT_EQ(byte, 0);
  }
}

// Scout's shapes assemble within the budget of a block of 288 threads, without spills.
TEST(SmallKernelsAtSize, Assemble) {
  for (const char *chip : {"sm_90a", "sm_80", "sm_100a"}) {
    for (const WeightFormat &format : {kBf16, kInt4, kInt4Zeros, kInt8, kFp8}) {
      const int64_t registers = format.quantized() ? 168 : 96;
      PtxKernel({CudaQkvSpec{5120, 7168, format, 1e-5f}, kSmallTokens, 2}, emitSmallLinear, chip)
          .expectAssembles(registers);
      PtxKernel({DownSpec{5120, 8192, 16, 1, format, format}, kSmallTokens, 4}, emitSmallLinear,
                chip)
          .expectAssembles(registers);
      PtxKernel({GateUpSpec{5120, 8192, 16, 1, format, format, 1e-5f}}, emitSmallGateUp, chip)
          .expectAssembles(registers);
    }
  }
}

} // namespace
