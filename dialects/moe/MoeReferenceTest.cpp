// Each reference op on values that can be checked by hand.
#include "dialects/moe/MoeReference.h"

#include <bit>
#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <numbers>

using namespace moe::reference;

namespace {

void expectNear(View found, const Values &expected, float tolerance = 1e-6f) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(found[i], expected[i], tolerance) << "element " << i;
}

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Bfloat16, RoundsToNearestEven) {
  EXPECT_EQ(toBfloat16(1.0f), 0x3f80);
  EXPECT_EQ(roundToBfloat16(1.0f + 1.0f / 256), 1.0f);              // a tie, down to even
  EXPECT_EQ(roundToBfloat16(1.0f + 3.0f / 256), 1.0f + 4.0f / 256); // a tie, up to even
  EXPECT_EQ(roundToBfloat16(1.0f + 1.1f / 256), 1.0f + 2.0f / 256);
  EXPECT_EQ(roundToBfloat16(-0.0f), 0.0f);
  EXPECT_TRUE(std::signbit(roundToBfloat16(-0.0f)));
  EXPECT_EQ(roundToBfloat16(std::numeric_limits<float>::max()), kInfinity);
  EXPECT_EQ(roundToBfloat16(-kInfinity), -kInfinity);
  EXPECT_TRUE(std::isnan(roundToBfloat16(kNaN)));
  EXPECT_EQ(round(1.1f, Rounding::None), 1.1f);
}

TEST(Bfloat16, KeepsNaNsWhoseBitsAreDropped) {
  EXPECT_TRUE(std::isnan(roundToBfloat16(std::bit_cast<float>(0x7f800001u))));
  EXPECT_TRUE(std::isnan(roundToBfloat16(std::bit_cast<float>(0xffffffffu))));
}

TEST(Embed, TakesRows) {
  std::vector<int32_t> tokens{2, 0, 2};
  Values table{1, 2, 3, 4, 5, 6};
  expectNear(embed(tokens, table, 2), {5, 6, 1, 2, 5, 6});
  expectNear(selectRows(table, tokens, 2), {5, 6, 1, 2, 5, 6});
  EXPECT_TRUE(embed({}, table, 2).empty());
}

TEST(RmsNorm, DividesByTheRootMeanSquare) {
  Values x{3, 4, 0, 0}, weight{1, 2};
  float rms = std::sqrt(12.5f);
  expectNear(rmsNorm(View(x).first(2), weight, 0), {3 / rms, 8 / rms});
  expectNear(rmsNorm(View(x).last(2), weight, 1e-5f), {0, 0});
}

TEST(RmsNorm, RoundsBeforeTheWeight) {
  // 1 / sqrt(0.505) = 1.40720 is 1.40625 in bfloat16; times 1.125 that is 1.58203, a tie, in
  // bfloat16 1.578125. Rounded only once, 1.58310 would be 1.5859375.
  Values x{1, 0.1f}, weight{1.125f, 1};
  EXPECT_EQ(rmsNorm(x, weight, 0, Rounding::Bfloat16)[0], 1.578125f);
  EXPECT_EQ(roundToBfloat16(rmsNorm(x, weight, 0)[0]), 1.5859375f);
}

TEST(Linear, MultipliesByTheTranspose) {
  Values x{1, 2, 3, 4}, weight{1, 0, 0, 1, 1, 1};
  expectNear(linear(x, weight, 2), {1, 2, 3, 3, 4, 7});
  Values ones(2, 1.0f), tiny{1, 1.0f / 512};
  EXPECT_EQ(linear(ones, tiny, 2)[0], 1.0f + 1.0f / 512);
  EXPECT_EQ(linear(ones, tiny, 2, Rounding::Bfloat16)[0], 1.0f);
}

TEST(RopeFrequencies, AreThoseOfScout) {
  Values plain = ropeFrequencies(500000, 128);
  Values current = ropeFrequencies(500000, 128, RopeScaling{16, 1, 1, 8192});
  Values launch = ropeFrequencies(500000, 128, RopeScaling{8, 1, 4, 8192});
  struct Row {
    size_t index;
    double plain, current, launch;
  };
  for (auto [index, expectedPlain, expectedCurrent, expectedLaunch] :
       std::vector<Row>{{0, 1.0, 1.0, 1.0},
                        {1, 0.814617217, 0.814617217, 0.814617217},
                        {16, 0.0376060307, 0.0376060307, 0.0376060307},
                        {29, 0.00261609908, 0.00261609908, 0.00216657045},
                        {32, 0.00141421345, 0.00141421345, 0.000524846055},
                        {34, 0.000938473851, 0.000938473851, 0.000178507802},
                        {35, 0.000764497032, 4.77810645e-05, 9.5562129e-05},
                        {48, 5.31829646e-05, 3.32393529e-06, 6.64787058e-06},
                        {63, 2.4551407e-06, 1.53446294e-07, 3.06892588e-07}}) {
    EXPECT_NEAR(plain[index] / expectedPlain, 1, 3e-7) << index;
    EXPECT_NEAR(current[index] / expectedCurrent, 1, 3e-7) << index;
    EXPECT_NEAR(launch[index] / expectedLaunch, 1, 2e-6) << index;
  }
  int scaled = 0;
  for (size_t i = 0; i < 64; ++i)
    scaled += plain[i] != current[i];
  EXPECT_EQ(scaled, 29);
}

TEST(RopeTable, RoundsTheAngle) {
  Values frequencies{1, 0.5f};
  std::vector<int32_t> positions{0, 2};
  expectNear(ropeTable(positions, frequencies),
             {1, 0, 1, 0, std::cos(2.0f), std::sin(2.0f), std::cos(1.0f), std::sin(1.0f)});
  // At a million positions float32 angles are 1/16 apart.
  std::vector<int32_t> late{1000003};
  Values third{0.3f};
  double rounded = double(1000003.0f * 0.3f), exact = 1000003.0 * double(0.3f);
  ASSERT_GT(std::abs(rounded - exact), 1e-3);
  expectNear(ropeTable(late, third), {float(std::cos(rounded)), float(std::sin(rounded))}, 1e-7f);
}

TEST(Rope, RotatesNeighbours) {
  float s = std::numbers::sqrt2_v<float> / 2;
  Values table{0, 1, s, s}; // a quarter turn, an eighth
  Values x{1, 0, 1, 0, 0, 2, 1, 1};
  expectNear(rope(x, table, 4), {0, 1, s, s, -2, 0, 0, 2 * s});
}

TEST(HeadNorm, TakesEachHeadByItself) {
  float rms = std::sqrt(12.5f);
  Values x{3, 4, -10, 10};
  expectNear(headNorm(x, 2, 1e-9f), {3 / rms, 4 / rms, -1, 1});
}

TEST(Temperature, StepsAtTheFloor) {
  std::vector<int32_t> positions{0, 8190, 8191, 16382, 16383, 65535, 131071, 1048575, 10485759};
  Values ones(positions.size(), 1.0f);
  expectNear(
      temperature(ones, positions, 0.1f, 8192),
      {1, 1, 1.0693147f, 1.0693147f, 1.1098612f, 1.2197225f, 1.2833213f, 1.4859812f, 1.7155396f});
  EXPECT_EQ(temperature(ones, positions, 0.1f, 8192)[1], 1.0f); // exactly
}

TEST(Attention, WeighsValuesBySoftmax) {
  KvCache cache(1, 1);
  std::vector<int32_t> positions{0, 1}, sequences{0, 0};
  // Scores ln 1 and ln 3: weights 1/4 and 3/4.
  cache.append(Values{0, std::log(3.0f)}, Values{8, 4}, positions, sequences);
  expectNear(attention(cache, Values{1, 1}, positions, sequences), {8, 5});
}

TEST(Attention, ScalesByTheRootOfTheHeadDimension) {
  KvCache cache(1, 4);
  std::vector<int32_t> positions{0, 1}, sequences{0, 0};
  Values keys{0, 0, 0, 0, 2 * std::log(3.0f), 0, 0, 0}, values{8, 0, 0, 0, 4, 0, 0, 0};
  cache.append(keys, values, positions, sequences);
  Values queries{1, 0, 0, 0, 1, 0, 0, 0};
  expectNear(attention(cache, queries, positions, sequences), {8, 0, 0, 0, 5, 0, 0, 0});
}

TEST(Attention, SeesItsOwnChunkOnly) {
  // Equal keys: the result is the mean of the visible values 0, 1, 2, ...
  Values zeros(10, 0.0f), values, means{0, 0.5f, 1, 1.5f, 4, 4.5f, 5, 5.5f, 8, 8.5f};
  std::vector<int32_t> positions, sequences(10, 0);
  for (int32_t i = 0; i < 10; ++i) {
    positions.push_back(i);
    values.push_back(float(i));
  }
  KvCache chunked(1, 1, 4), full(1, 1);
  chunked.append(zeros, values, positions, sequences);
  full.append(zeros, values, positions, sequences);
  expectNear(attention(chunked, zeros, positions, sequences), means);
  for (int32_t i = 0; i < 10; ++i)
    means[size_t(i)] = float(i) / 2;
  expectNear(attention(full, zeros, positions, sequences), means);
  EXPECT_EQ(KvCache(1, 1, 8192).firstVisible(8191), 0);
  EXPECT_EQ(KvCache(1, 1, 8192).firstVisible(8192), 8192);
}

TEST(Attention, SharesHeadsInGroups) {
  KvCache cache(2, 1);
  std::vector<int32_t> positions{0}, sequences{0};
  cache.append(Values{0, 0}, Values{1, 2}, positions, sequences);
  expectNear(attention(cache, Values(6, 1.0f), positions, sequences), {1, 1, 1, 2, 2, 2});
}

TEST(KvCache, KeepsSequencesApart) {
  KvCache cache(1, 1);
  std::vector<int32_t> positions{0, 0, 1}, sequences{7, 3, 7};
  cache.append(Values{0, 0, 0}, Values{10, 20, 30}, positions, sequences);
  expectNear(attention(cache, Values{1, 1, 1}, positions, sequences), {10, 20, 20});
  EXPECT_EQ(cache.length(7), 2);
  EXPECT_EQ(cache.length(3), 1);
  EXPECT_EQ(cache.length(4), 0);
}

TEST(KvCache, ReplacesAndPoisons) {
  KvCache cache(1, 2, 0, KvCache::Storage::Bfloat16);
  std::vector<int32_t> zero{0}, two{2};
  cache.append(Values{1.0f + 1.0f / 512, 2}, Values{3, 4}, zero, zero);
  EXPECT_EQ(cache.key(0, 0, 0)[0], 1.0f); // kept as bfloat16
  cache.append(Values{5, 6}, Values{7, 8}, zero, zero);
  EXPECT_EQ(cache.value(0, 0, 0)[1], 8);
  cache.append(Values{5, 6}, Values{7, 8}, two, zero);
  EXPECT_TRUE(std::isnan(cache.key(0, 1, 0)[0]));
  EXPECT_TRUE(std::isnan(attention(cache, Values{1, 1}, two, zero)[0]));
}

TEST(KvCache, KeepsCodesOfAByte) {
  KvCache cache(2, 3, 0, KvCache::Storage::Int8);
  std::vector<int32_t> zero{0}, one{1};
  // The first head's step is 1, the second's 0.5; ties go to the even code.
  cache.append(Values{127, -3.4f, 2.5f, 63.5f, 0.25f, -0.8f}, Values{0, 0, 0, -254, 3, 1}, zero,
               zero);
  expectNear(Values(cache.key(0, 0, 0).begin(), cache.key(0, 0, 0).end()), {127, -3, 2});
  expectNear(Values(cache.key(0, 0, 1).begin(), cache.key(0, 0, 1).end()), {63.5f, 0, -1});
  expectNear(Values(cache.value(0, 0, 0).begin(), cache.value(0, 0, 0).end()), {0, 0, 0});
  expectNear(Values(cache.value(0, 0, 1).begin(), cache.value(0, 0, 1).end()), {-254, 4, 0});
  float nan = std::numeric_limits<float>::quiet_NaN();
  cache.append(Values{nan, 1, 2, 1, 2, 3}, Values{1, 2, nan, 1, 2, 3}, one, zero);
  for (int c = 0; c < 3; ++c) {
    EXPECT_TRUE(std::isnan(cache.key(0, 1, 0)[c]) && std::isnan(cache.value(0, 1, 0)[c]));
    EXPECT_FALSE(std::isnan(cache.key(0, 1, 1)[c]) || std::isnan(cache.value(0, 1, 1)[c]));
  }
}

TEST(Swiglu, RoundsSiluBeforeTheProduct) {
  expectNear(swiglu(Values{0, std::log(3.0f), -100}, Values{5, 2, 1}),
             {0, 1.5f * std::log(3.0f), 0});
  // silu(1) = 0.731059 is 0.730469 in bfloat16; times 9 that is 6.57422, in bfloat16 6.5625.
  // Rounded only once, 6.57953 would be 6.59375.
  EXPECT_EQ(swiglu(Values{1}, Values{9}, Rounding::Bfloat16)[0], 6.5625f);
  EXPECT_EQ(roundToBfloat16(swiglu(Values{1}, Values{9})[0]), 6.59375f);
}

TEST(Route, PicksTheLargest) {
  Routing routing = route(Values{0, 3, 1, 2, -1, -3, -2, -1}, 4, 2);
  EXPECT_EQ(routing.experts, (std::vector<int32_t>{1, 3, 0, 3}));
  float e3 = 1 / (1 + std::exp(-3.0f)), e2 = 1 / (1 + std::exp(-2.0f)),
        e1 = 1 / (1 + std::exp(1.0f));
  expectNear(routing.scores, {e3, e2, e1, e1}); // ties go to the lower expert
}

TEST(Route, BreaksTiesOfRoundedLogits) {
  Values logits{1.0f, 1.0f + 1.0f / 512};
  EXPECT_EQ(route(logits, 2, 1).experts[0], 1);
  EXPECT_EQ(route(logits, 2, 1, Rounding::Bfloat16).experts[0], 0);
}

TEST(Route, PicksEachExpertOnceEvenOfNaNs) {
  Routing routing = route(Values{kNaN, kNaN, kNaN}, 3, 3);
  EXPECT_EQ(routing.experts, (std::vector<int32_t>{0, 1, 2}));
}

TEST(Experts, ScaleTheirInput) {
  // Expert e: gate 1, up e + 1, down 1; x = 2 at score 1/2 makes u = 1.
  Values gate{1, 1}, up{1, 2}, down{1, 1};
  std::vector<int32_t> one{1}, both{0, 1};
  float silu1 = 1 / (1 + std::exp(-1.0f));
  expectNear(experts(Values{2}, one, Values{0.5f}, gate, up, down, 1, 1), {2 * silu1});
  expectNear(experts(Values{2}, both, Values{0.5f, 0.5f}, gate, up, down, 1, 1), {3 * silu1});
}

TEST(Add, Rounds) {
  expectNear(add(Values{1, 2}, Values{3, 4}), {4, 6});
  EXPECT_EQ(add(Values{1}, Values{1.0f / 512}, Rounding::Bfloat16)[0], 1.0f);
}

TEST(FinalNorm, IsOfTheWantedRows) {
  // The rows have root mean squares of 5 and 1.
  Values x{1, -7, 1, 1, 1, -1}, norm{2, 3}, weight{1, 1};
  std::vector<int32_t> rows{2, 0};
  expectNear(finalNorm(x, rows, norm, 0), {2, -3, 0.4f, -4.2f});
  expectNear(head(x, rows, norm, weight, 0), {-1, -3.8f});
  EXPECT_TRUE(finalNorm(x, {}, norm, 0).empty());
}

TEST(Empty, StepsAreEmpty) {
  Values weight{1, 1, 1, 1}, norm{1, 1};
  KvCache cache(1, 2);
  EXPECT_TRUE(rmsNorm({}, norm, 1e-5f).empty());
  EXPECT_TRUE(linear({}, weight, 2).empty());
  EXPECT_TRUE(rope({}, {}, 2).empty());
  EXPECT_TRUE(temperature({}, {}, 0.1f, 8).empty());
  EXPECT_TRUE(attentionBlock(cache, {}, {}, {}, {}).empty());
  EXPECT_TRUE(route({}, 4, 1).experts.empty());
}

} // namespace
