// Sampling on the simulator, against the runtime's Sampler and against a plain softmax.
#include "compiler/kernels/sample/Sample.h"
#include "compiler/targets/cuda/TestSampling.h"
#include "runtime/session/Sampler.h"

namespace moe::codegen {

namespace {

using cuda::RowSampling;

static_assert(sizeof(RowSampling) == kRowSamplingBytes);
static_assert(offsetof(RowSampling, scale) == 4 && offsetof(RowSampling, random) == 8 &&
              offsetof(RowSampling, topP) == 16 && offsetof(RowSampling, minWeight) == 24 &&
              offsetof(RowSampling, topK) == 32 && offsetof(RowSampling, mask) == 36);

struct Row {
  Floats logits;
  std::optional<Draw> draw;     // nothing: greedy
  std::vector<uint32_t> mask{}; // none: all tokens
};

// The ids of the rows, whose first ones are those of their largest logits. Masks are in another
// order than rows.
Ints choose(const PtxKernel &kernel, const std::vector<Row> &rows, int64_t vocabulary,
            int64_t blocks, uint64_t seed = 0) {
  PtxBench bench(seed);
  const CudaSample contract{vocabulary};
  std::vector<RowSampling> sampling;
  Floats logits;
  Ints ids;
  const auto words = size_t(contract.maskWords());
  std::vector<uint32_t> masks(rows.size() * words, 0xdeadbeef);
  for (const Row &row : rows) {
    Draw d = row.draw.value_or(Draw{});
    const auto mask = rows.size() - 1 - sampling.size();
    std::copy(row.mask.begin(), row.mask.end(), masks.begin() + int64_t(mask * words));
    const uint32_t draws = row.draw && d.scale > 0 ? kDraws | kWritesLogits : 0,
                   masked = row.mask.empty() ? 0 : RowSampling::masked | kWritesLogits;
    sampling.push_back(
        {draws | masked, d.scale, d.random, d.topP, d.minWeight, d.topK, int32_t(mask)});
    logits.insert(logits.end(), row.logits.begin(), row.logits.end());
    ids.push_back(largest(row.logits));
  }
  const Step step{1, int64_t(rows.size())};
  uint64_t to = bench.put(ids);
  PtxArgument counters = bench.made(contract, Operand::Counters, step);
  bench.run(kernel, blocks,
            {{Operand::Sampling, bench.put(sampling)},
             {Operand::Masks, bench.put(masks)},
             {Operand::Logits, bench.put(logits)},
             {Operand::Ids, to},
             bench.made(contract, Operand::Partials, step),
             counters},
            {1, int32_t(rows.size()), 1, 0});
  bench.expectZeros(counters.address, contract.bytes(Operand::Counters, step));
  return bench.get<int32_t>(to, rows.size());
}

struct SampleCase {
  const char *chip;
  int64_t vocabulary;
  size_t rows;
  int64_t blocks;
};

class Samples : public testing::TestWithParam<SampleCase>, protected RandomFloats {
protected:
  Samples() { generator.seed(uint32_t(vocabulary * 7 + blocks)); }

  const int64_t vocabulary = GetParam().vocabulary, blocks = GetParam().blocks;
  const size_t count = GetParam().rows;
  const PtxKernel &kernel = compiled(CudaSample{vocabulary}, GetParam().chip);

  SamplerOptions randomOptions() {
    auto one = [&](int n) { return int(generator() % n); };
    SamplerOptions options;
    const double temperatures[] = {1, 0.7, 0.05, 3, 1e-9, 1e9};
    options.temperature = temperatures[one(6)];
    options.topK = one(2) ? 0 : 1 + one(int(std::min<int64_t>(vocabulary + 3, 60)));
    const double topPs[] = {1, 1, 0.9, 0.5, 0.999, 1e-9};
    options.topP = topPs[one(6)];
    const double minPs[] = {0, 0, 0, 0.1, 1e-7, 0.999};
    options.minP = minPs[one(6)];
    options.seed = generator();
    return options;
  }

  Floats someLogits() {
    Floats logits = normal(vocabulary, generator() % 2 ? 3.f : 0.3f);
    switch (generator() % 5) {
    case 0: // many ties
      for (float &x : logits)
        x = std::round(x);
      break;
    case 1:
      for (float &x : logits)
        x = generator() % 3 ? -kInf : x;
      logits[generator() % vocabulary] = -4;
      break;
    case 2: // both zeros
      for (float &x : logits)
        x = x < 0 ? -0.f : 0.f;
      break;
    case 3:
      for (float &x : logits)
        x *= 1e30f;
      break;
    default: // as they are
      break;
    }
    return logits;
  }
};

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
  kernel.expectAssembles(64);
  for (int round = 0; round < 6; ++round) {
    std::vector<Row> rows;
    Ints want;
    std::string texts;
    for (size_t r = 0; r < count; ++r) {
      Floats logits = someLogits();
      if (generator() % 5 == 0) {
        want.push_back(largest(logits));
        rows.push_back({std::move(logits), std::nullopt});
        continue;
      }
      SamplerOptions options = randomOptions();
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

// The same with masks of all kinds, also of greedy rows and beside rows without; what they leave
// out is not looked at. Masks that allow nothing give the host's error.
TEST_P(Samples, ChooseByMasksAsTheHostDoes) {
  for (int round = 0; round < 6; ++round) {
    std::vector<Row> rows;
    Ints want;
    std::string texts;
    for (size_t r = 0; r < count; ++r) {
      Row row{someLogits(), std::nullopt, std::vector<uint32_t>(size_t(vocabulary + 31) / 32)};
      const int kind = int(generator() % 6);
      for (uint32_t &word : row.mask)
        word = kind == 0   ? 0
               : kind == 1 ? ~0u
               : kind == 2 ? generator() & generator() & generator() & generator()
                           : generator();
      if (kind == 3) { // one token alone
        std::fill(row.mask.begin(), row.mask.end(), 0);
        const auto token = size_t(generator() % vocabulary);
        row.mask[token / 32] = 1u << token % 32;
      }
      if (kind == 4) // that no number may be
        for (int64_t token = 0; token < vocabulary; ++token)
          if (!(row.mask[size_t(token) / 32] >> token % 32 & 1) && generator() % 3 == 0)
            row.logits[size_t(token)] = generator() % 2 ? NAN : kInf;
      const bool bad = kind == 5 && generator() % 2; // among those that may be chosen
      if (bad)
        row.logits[size_t(generator() % vocabulary)] = NAN;
      SamplerOptions options = randomOptions();
      if (generator() % 3 == 0)
        options.temperature = 0;
      auto device = Sampler::create(options, vocabulary),
           host = Sampler::create(options, vocabulary);
      ASSERT_TRUE(device && host);
      ASSERT_TRUE(device->setMask(row.mask) && host->setMask(row.mask));
      row.draw = device->draw();
      ASSERT_TRUE(row.draw && row.draw->masked);
      if (generator() % 7 == 0 && !bad && kind != 4) { // without its mask
        row.mask.clear();
        ASSERT_TRUE(host->setMask({}));
      }
      auto chosen = host->sample(row.logits);
      if (chosen) {
        want.push_back(*chosen);
      } else { // by the definition of the codes
        Floats allowed = row.logits;
        for (size_t token = 0; token < allowed.size(); ++token)
          if (!row.mask.empty() && !(row.mask[token / 32] >> token % 32 & 1))
            allowed[token] = -kInf;
        want.push_back(largest(allowed));
        ASSERT_LT(want.back(), 0);
        EXPECT_EQ(want.back() == kNothingToChoose,
                  host->errorOf(kNothingToChoose).message == chosen.error().message);
      }
      rows.push_back(std::move(row));
      texts += "row " + std::to_string(r) + ": mask of kind " + std::to_string(kind) +
               " temperature " + std::to_string(options.temperature) + " top-k " +
               std::to_string(options.topK) + " top-p " + std::to_string(options.topP) + " min-p " +
               std::to_string(options.minP) + "\n";
    }
    ASSERT_EQ(choose(kernel, rows, vocabulary, blocks, round), want) << texts;
  }
}

TEST_P(Samples, LeavesErrorsAsTheyAre) {
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
  PtxKernel kernel(CudaSample{vocabulary});
  std::mt19937 generator(5);
  Floats logits = normalFloats(generator, vocabulary, 2);
  for (auto [topK, topP] : {std::pair{0, 1.0}, {9, 1.0}, {0, 0.8}, {12, 0.7}}) {
    const double temperature = 0.8;
    // What is left, by the definition of the filters.
    std::vector<int> order(vocabulary);
    for (int i = 0; i < vocabulary; ++i)
      order[i] = i;
    llvm::sort(order,
               [&](int a, int b) { return std::pair(-logits[a], a) < std::pair(-logits[b], b); });
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
  for (const char *chip : {"sm_80", "sm_90a", "sm_100a"})
    PtxKernel(CudaSample{202048}, chip).expectAssembles(64);
}

} // namespace

} // namespace moe::codegen
