// The kernels that choose tokens: the heads' largest logits against a plain search of the logits
// that they write, and `sample` against the runtime's Sampler and against a plain softmax.
#include "compiler/targets/cuda/CudaKernels.h"
#include "compiler/targets/cuda/TestPtx.h"
#include "runtime/session/Sampler.h"
#include <cmath>
#include <map>
#include <random>

using namespace moe;
using namespace moe::codegen;

namespace {

using Floats = std::vector<float>;
using Ints = std::vector<int32_t>;
using cuda::RowSampling;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr uint32_t kLogits = RowSampling::writesLogits, kDraws = RowSampling::draws;
static_assert(sizeof(RowSampling) == kRowSamplingBytes);
static_assert(offsetof(RowSampling, scale) == 4 && offsetof(RowSampling, random) == 8 &&
              offsetof(RowSampling, topP) == 16 && offsetof(RowSampling, minWeight) == 24 &&
              offsetof(RowSampling, topK) == 32);

std::mt19937 engine(5);

Floats normal(size_t n, float scale = 1) { return normalFloats(engine, n, scale); }

// Compiles each kernel once.
const PtxKernel &compiled(const CudaSpec &spec, PtxKernel::Emitter emit, const char *chip) {
  static std::map<std::string, PtxKernel> kernels;
  std::string key = nameOf(spec) + "_" + chip;
  auto found = kernels.find(key);
  if (found == kernels.end())
    found = kernels.emplace(key, PtxKernel(spec, emit, chip)).first;
  return found->second;
}

int32_t largest(std::span<const float> logits) {
  for (size_t i = 0; i < logits.size(); ++i)
    if (!(logits[i] < kInf))
      return badLogitId(int32_t(i));
  auto best = std::max_element(logits.begin(), logits.end());
  return *best == -kInf ? kNothingToChoose : int32_t(best - logits.begin());
}

//===----------------------------------------------------------------------===//
// Heads
//===----------------------------------------------------------------------===//

struct HeadCase {
  const char *chip;
  int64_t tile;
  int32_t rows;
  int64_t vocabulary;
};

// The head of x [rows, hidden], whose norm is the same for all: hidden = 64 ones, scaled.
class Heads : public testing::TestWithParam<HeadCase> {
protected:
  const int64_t hidden = 64;
  const HeadCase c = GetParam();
  const bool small = c.tile == kSmallTokens;
  CudaSpec spec{HeadSpec{hidden, c.vocabulary, kBf16, 1e-5f}, c.tile};
  const PtxKernel &kernel = compiled(spec, small ? emitSmallLinear : emitTiledLinear, c.chip);

  struct Outcome {
    Floats logits;
    Ints ids;
  };
  // Rows of `flags` without kLogits keep 7 in all of their logits.
  Outcome run(const Floats &x, const Floats &w, const std::vector<uint32_t> &flags, int64_t blocks,
              uint64_t seed) {
    PtxBench bench;
    bench.options.seed = seed;
    const int32_t rows = int32_t(flags.size());
    std::vector<RowSampling> sampling(rows + 1);
    for (int32_t r = 0; r < rows; ++r)
      sampling[r].flags = flags[r];
    std::vector<uint64_t> operands;
    if (small) {
      Ints order(rows);
      for (int32_t r = 0; r < rows; ++r)
        order[r] = r;
      order.push_back(0);
      operands = {bench.put(order), bench.put(sampling), bench.put(x),
                  bench.put(Floats(hidden, 1))};
    } else {
      std::vector<uint16_t> halves;
      for (float v : x)
        halves.push_back(toBf16(v));
      operands = {bench.put(halves), bench.put(sampling)};
    }
    std::vector<uint8_t> zeros(counterBytes(spec, rows));
    uint64_t logits = bench.put(Floats((rows + 1) * c.vocabulary, 7)),
             ids = bench.put(Ints(rows + 1, 99)), counters = bench.put(zeros);
    operands.insert(operands.end(),
                    {bench.put(toFragments(w, c.vocabulary, hidden)), logits, ids, counters});
    bench.run(kernel, blocks, operands, {rows, rows, 1, 0});
    EXPECT_EQ(bench.get<uint8_t>(counters, zeros.size()), zeros);
    auto got = bench.get<int32_t>(ids, rows + 1);
    EXPECT_EQ(got.back(), 99);
    got.pop_back();
    return {bench.get<float>(logits, rows * c.vocabulary), got};
  }
};

INSTANTIATE_TEST_SUITE_P(
    All, Heads,
    testing::Values(HeadCase{"sm_90a", 8, 1, 75}, HeadCase{"sm_90a", 8, 8, 301},
                    HeadCase{"sm_80", 8, 5, 16}, HeadCase{"sm_100a", 8, 3, 129},
                    HeadCase{"sm_90a", 64, 20, 301}, HeadCase{"sm_80", 64, 70, 130},
                    HeadCase{"sm_90a", 128, 130, 257}, HeadCase{"sm_80", 128, 40, 1},
                    HeadCase{"sm_100a", 128, 9, 300}),
    [](const auto &info) {
      return std::string(info.param.chip) + "_t" + std::to_string(info.param.tile) + "_" +
             std::to_string(info.param.rows) + "x" + std::to_string(info.param.vocabulary);
    });

TEST_P(Heads, TellTheLargestLogit) {
  kernel.expectAssembles(small ? 96 : 168);
  Floats x = normal(c.rows * hidden), w = normal(c.vocabulary * hidden, 0.2f);
  // Rows of weights that are equal give equal logits, with any token.
  for (int64_t row = c.vocabulary / 2; row < c.vocabulary; ++row)
    std::copy_n(w.begin() + (row - c.vocabulary / 2) * hidden, hidden, w.begin() + row * hidden);
  std::vector<uint32_t> all(c.rows, kLogits), some;
  for (int32_t r = 0; r < c.rows; ++r)
    some.push_back(r % 3 == 1 ? kLogits : 0);
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

TEST_P(Heads, TellWhatIsNoNumber) {
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

TEST_P(Heads, NoRows) {
  EXPECT_TRUE(run(Floats(hidden), normal(c.vocabulary * hidden), {}, 3, 0).ids.empty());
}

//===----------------------------------------------------------------------===//
// Sampling
//===----------------------------------------------------------------------===//

struct Row {
  Floats logits;
  std::optional<Draw> draw; // nothing: greedy
};

// The ids of the rows, whose first ones are those of their largest logits.
Ints choose(const PtxKernel &kernel, const std::vector<Row> &rows, int64_t vocabulary,
            int64_t blocks, uint64_t seed = 0) {
  PtxBench bench;
  bench.options.seed = seed;
  CudaSpec spec{SampleSpec{vocabulary}};
  std::vector<RowSampling> sampling;
  Floats logits;
  Ints ids;
  for (const Row &row : rows) {
    Draw d = row.draw.value_or(Draw{});
    sampling.push_back(
        {row.draw ? kDraws | kLogits : 0, d.scale, d.random, d.topP, d.minWeight, d.topK, 0});
    logits.insert(logits.end(), row.logits.begin(), row.logits.end());
    ids.push_back(largest(row.logits));
  }
  std::vector<uint8_t> zeros(counterBytes(spec, rows.size()));
  uint64_t counters = bench.put(zeros), to = bench.put(ids);
  bench.run(kernel, blocks,
            {bench.put(sampling), bench.put(logits), to,
             bench.room(partialBytes(spec, rows.size())), counters},
            {1, int32_t(rows.size()), 1, 0});
  EXPECT_EQ(bench.get<uint8_t>(counters, zeros.size()), zeros);
  return bench.get<int32_t>(to, rows.size());
}

SamplerOptions randomOptions(int64_t vocabulary) {
  auto one = [&](int n) { return int(engine() % n); };
  SamplerOptions options;
  const double temperatures[] = {1, 0.7, 0.05, 3, 1e-9, 1e9};
  options.temperature = temperatures[one(6)];
  options.topK = one(2) ? 0 : 1 + one(int(std::min<int64_t>(vocabulary + 3, 60)));
  const double topPs[] = {1, 1, 0.9, 0.5, 0.999, 1e-9};
  options.topP = topPs[one(6)];
  const double minPs[] = {0, 0, 0, 0.1, 1e-7, 0.999};
  options.minP = minPs[one(6)];
  options.seed = engine();
  return options;
}

Floats someLogits(int64_t vocabulary) {
  Floats logits = normal(vocabulary, engine() % 2 ? 3.f : 0.3f);
  switch (engine() % 5) {
  case 0: // many ties
    for (float &x : logits)
      x = std::round(x);
    break;
  case 1:
    for (float &x : logits)
      x = engine() % 3 ? -kInf : x;
    logits[engine() % vocabulary] = -4;
    break;
  case 2: // both zeros
    for (float &x : logits)
      x = x < 0 ? -0.f : 0.f;
    break;
  case 3:
    for (float &x : logits)
      x *= 1e30f;
    break;
  }
  return logits;
}

struct SampleCase {
  const char *chip;
  int64_t vocabulary;
  size_t rows;
  int64_t blocks;
};

class Samples : public testing::TestWithParam<SampleCase> {};

INSTANTIATE_TEST_SUITE_P(
    All, Samples,
    testing::Values(SampleCase{"sm_90a", 1000, 1, 1}, SampleCase{"sm_90a", 1000, 3, 7},
                    SampleCase{"sm_80", 4099, 2, 32}, SampleCase{"sm_90a", 20011, 1, 16},
                    SampleCase{"sm_90a", 1, 2, 4}, SampleCase{"sm_100a", 129, 66, 30},
                    SampleCase{"sm_80", 5, 70, 80}, SampleCase{"sm_100a", 2500, 5, 3},
                    SampleCase{"sm_90a", 3001, 12, 40}),
    [](const auto &info) {
      return std::string(info.param.chip) + "_" + std::to_string(info.param.rows) + "x" +
             std::to_string(info.param.vocabulary) + "_" + std::to_string(info.param.blocks);
    });

// The token is the very one that the host would take, for all options and however blocks share.
TEST_P(Samples, ChooseAsTheHostDoes) {
  auto [chip, vocabulary, count, blocks] = GetParam();
  const PtxKernel &kernel = compiled({SampleSpec{vocabulary}}, emitSample, chip);
  kernel.expectAssembles(64);
  for (int round = 0; round < 6; ++round) {
    std::vector<Row> rows;
    Ints want;
    std::string texts;
    for (size_t r = 0; r < count; ++r) {
      Floats logits = someLogits(vocabulary);
      if (engine() % 5 == 0) {
        want.push_back(largest(logits));
        rows.push_back({std::move(logits), std::nullopt});
        continue;
      }
      SamplerOptions options = randomOptions(vocabulary);
      auto device = Sampler::create(options, vocabulary),
           host = Sampler::create(options, vocabulary);
      ASSERT_TRUE(device && host);
      want.push_back(*host->sample(logits));
      rows.push_back({std::move(logits), device->draw()});
      texts += "row " + std::to_string(r) + ": temperature " + std::to_string(options.temperature) +
               " top-k " + std::to_string(options.topK) + " top-p " + std::to_string(options.topP) +
               " min-p " + std::to_string(options.minP) + "\n";
    }
    ASSERT_EQ(choose(kernel, rows, vocabulary, blocks, round), want) << texts;
  }
}

TEST_P(Samples, LeavesErrorsAsTheyAre) {
  auto [chip, vocabulary, count, blocks] = GetParam();
  const PtxKernel &kernel = compiled({SampleSpec{vocabulary}}, emitSample, chip);
  Draw draw;
  draw.scale = 1;
  std::vector<Row> rows(count, {Floats(vocabulary, -kInf), draw});
  EXPECT_EQ(choose(kernel, rows, vocabulary, blocks), Ints(count, kNothingToChoose));
  for (Row &row : rows)
    row.logits[vocabulary / 2] = NAN;
  EXPECT_EQ(choose(kernel, rows, vocabulary, blocks), Ints(count, badLogitId(vocabulary / 2)));
}

// Against sums in double precision: random numbers at even distances give each token its share.
TEST(SampleKernel, SharesAreTheSoftmax) {
  const int64_t vocabulary = 37;
  const int draws = 640;
  PtxKernel kernel({SampleSpec{vocabulary}}, emitSample);
  Floats logits = normal(vocabulary, 2);
  for (auto [topK, topP] : {std::pair{0, 1.0}, {9, 1.0}, {0, 0.8}, {12, 0.7}}) {
    const double temperature = 0.8;
    // What is left, by the definition of the filters.
    std::vector<int> order(vocabulary);
    for (int i = 0; i < vocabulary; ++i)
      order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return logits[a] > logits[b]; });
    if (topK)
      order.resize(topK);
    std::vector<double> p(vocabulary);
    double total = 0;
    for (int i : order)
      total += std::exp(logits[i] / temperature);
    double reached = 0;
    for (int i : order)
      if (topP == 1 || reached < topP * total)
        reached += p[i] = std::exp(logits[i] / temperature);

    std::vector<Row> rows;
    for (int i = 0; i < draws; ++i) {
      Draw draw;
      draw.scale = float(1.4426950408889634 / temperature);
      draw.random = uint64_t((i + 0.5) / draws * 0x1p64);
      draw.topK = topK;
      draw.topP = topP < 1 ? uint64_t(topP * 0x1p64) : 0;
      rows.push_back({logits, draw});
    }
    Ints got = choose(kernel, rows, vocabulary, 24);
    for (int token = 0; token < vocabulary; ++token) {
      const double share = double(std::count(got.begin(), got.end(), token)) / draws;
      EXPECT_NEAR(share, p[token] / reached, 1.01 / draws) << "token " << token;
      if (p[token] == 0)
        EXPECT_EQ(share, 0);
    }
  }
}

TEST(SampleKernel, AssemblesAtSize) {
  for (const char *chip : {"sm_80", "sm_90a", "sm_100a"}) {
    PtxKernel({SampleSpec{202048}}, emitSample, chip).expectAssembles(64);
    PtxKernel({HeadSpec{5120, 202048, kBf16, 1e-5f}}, emitSmallLinear, chip).expectAssembles(96);
    PtxKernel({HeadSpec{5120, 202048, kBf16, 0}, 128}, emitTiledLinear, chip).expectAssembles(168);
  }
}

} // namespace
