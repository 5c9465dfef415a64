// Keys and values in int8: what the kernels write into pages, and what they make of it, against
// double precision and the bounds that follow from the steps of the codes.
#include "compiler/kernels/attention/Attention.h"
#include "compiler/targets/cpu/TestCpuKernel.h"
#include "compiler/targets/cpu/ValueTile.h"

using namespace mlir;
using namespace moe;
using namespace moe::codegen;

namespace {

using Doubles = std::vector<double>;

struct Shape {
  int64_t heads, kvHeads, headDim, chunk;
};

// One step of all tokens of two sequences, whose pages lie in a scrambled order.
class Int8Cache : public Kernels {
protected:
  static constexpr int32_t stride = 3;
  static constexpr int64_t hidden = 64, before = 128; // another layer's part of a page

  void make(const Shape &s, float size = 1) {
    shape = s;
    cache = {.heads = s.kvHeads, .headDim = s.headDim, .chunk = s.chunk, .storage = Storage::I8};
    cache.pageBytes = before + cache.layerBytes() + 64;
    project = compile(CpuQkv{.hidden = hidden,
                             .format = {Storage::F32},
                             .eps = 1e-5f,
                             .finish = {.heads = s.heads,
                                        .cache = cache,
                                        .rope = false,
                                        .qkNorm = std::nullopt,
                                        .temperature = std::nullopt}});
    attend = compile(CpuAttention{s.heads, {Storage::F32}, cache});
    w = matrix({(s.heads + 2 * s.kvHeads) * s.headDim, hidden}, WeightLayout::Kind::PanelHeads,
               {Storage::F32}, size / std::sqrt(float(hidden)), s.headDim);
    norm = norms(hidden);
    positions.clear();
    sequences.clear();
    for (size_t sequence = 0; sequence < lengths.size(); ++sequence)
      for (int32_t p = 0; p < lengths[sequence]; ++p) {
        positions.push_back(p);
        sequences.push_back(int32_t(sequence));
      }
    h = random(positions.size() * hidden);
  }
  int64_t tokens() const { return positions.size(); }

  // The output, [tokens, heads * headDim]. `q` and `pages` keep what the kernels wrote.
  Floats go(std::byte unwritten = std::byte(0)) {
    int64_t out = shape.heads * shape.headDim;
    pages.assign(6 * cache.pageBytes, unwritten);
    q.assign(tokens() * shape.heads * cache.queryRow().bytes(), std::byte(0xff));
    Bytes hs = rowsOf(h, hidden, Storage::F32), o(tokens() * padded(out) * 4, std::byte(0xff));
    run(project,
        {{Operand::Positions, positions},
         {Operand::Sequences, sequences},
         {Operand::BlockTable, blocks},
         {Operand::H, hs},
         {Operand::Norm, norm.bytes},
         {Operand::Weight, w.bytes},
         {Operand::Q, q},
         {Operand::Cache, {pages, size_t(before)}}},
        tokens(), 0, stride, 2);
    runAttention(positions, sequences, o, 3);
    return valuesOf(o, tokens(), out, Storage::F32);
  }

  void runAttention(Ints &positions, Ints &sequences, Buffer out, int workers) {
    run(attend,
        {{Operand::Positions, positions},
         {Operand::Sequences, sequences},
         {Operand::BlockTable, blocks},
         {Operand::Q, q},
         {Operand::Cache, {pages, size_t(before)}},
         {Operand::AttentionOut, out}},
        int32_t(positions.size()), 0, stride, workers);
  }

  // A head's key or value, before it was stored: [headDim] of row `t` of the projections.
  Doubles exact(const Floats &projected, int64_t t, int64_t head) {
    int64_t width = (shape.heads + 2 * shape.kvHeads) * shape.headDim;
    auto *from = &projected[t * width + head * shape.headDim];
    return Doubles(from, from + shape.headDim);
  }
  // What the page of token t has of it, as CacheSpec.h says. `scale` of it too.
  std::pair<Doubles, double> stored(int64_t t, int64_t head, bool value) {
    int64_t block = blocks[sequences[t] * stride + positions[t] / 64], p = positions[t] % 64;
    const std::byte *at = &pages[before + block * cache.pageBytes + head * cache.headBytes()];
    if (value)
      at += cache.keyBytes();
    float scale;
    memcpy(&scale, at + p * 4, 4);
    Doubles result;
    for (int64_t c = 0; c < shape.headDim; ++c) {
      int64_t place =
          value ? c / 64 * 4096 + p / 4 * 256 + c % 64 * 4 + p % 4 : c / 4 * 256 + p * 4 + c % 4;
      int code = int(at[256 + place]);
      EXPECT_GE(code, 1);
      result.push_back(double(scale) * (code - 128));
    }
    return {result, scale};
  }
  Doubles query(int64_t t, int64_t head) {
    Bytes row(q.begin() + (t * shape.heads + head) * cache.queryRow().bytes(),
              q.begin() + (t * shape.heads + head + 1) * cache.queryRow().bytes());
    Floats values = valuesOf(row, 1, cache.queryRow());
    return Doubles(values.begin(), values.end());
  }
  // Visits the tokens that token t sees.
  void forVisible(int64_t t, llvm::function_ref<void(int64_t)> visit) {
    for (int64_t other = 0; other < tokens(); ++other)
      if (sequences[other] == sequences[t] && positions[other] <= positions[t] &&
          (!shape.chunk || positions[other] / shape.chunk == positions[t] / shape.chunk))
        visit(other);
  }
  static double dot(const Doubles &a, const Doubles &b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  }
  static double largestOf(const Doubles &x) {
    double most = 0;
    for (double v : x)
      most = std::max(most, std::abs(v));
    return most;
  }
  static double sumOf(const Doubles &x) {
    double sum = 0;
    for (double v : x)
      sum += std::abs(v);
    return sum;
  }

  Shape shape;
  CacheSpec cache;
  Compiled project, attend;
  TestWeight w, norm;
  std::vector<int32_t> lengths{150, 70};
  Ints blocks{5, 2, 4, 0, 3, -1}, positions, sequences;
  Floats h;
  Bytes q, pages;
};

// Each key and value is within half a step of what the projection gave, and each output within what
// such errors of queries, keys and values can do to it; given the codes, it is exact but for the
// codes of the weights.
TEST_P(Int8Cache, ErrorsAreWithinTheStepsOfTheCodes) {
  for (Shape s : {Shape{4, 2, 16, 0}, Shape{3, 1, 18, 40}, Shape{2, 2, 64, 64}, Shape{5, 1, 128, 0},
                  Shape{2, 1, 130, 0}}) {
    SCOPED_TRACE(std::to_string(s.headDim));
    make(s, 1.5f);
    Floats got = go(), projected = reference::qkv(h, norm.values, w.values, 1e-5f);
    int64_t group = s.heads / s.kvHeads;
    const double base = std::numbers::log2e / std::sqrt(double(s.headDim));
    double sumOfErrors = 0, sumOfValues = 0;
    for (int64_t head = 0; head < s.kvHeads; ++head) {
      std::vector<Doubles> keys, values, exactKeys, exactValues;
      for (int64_t t = 0; t < tokens(); ++t) {
        exactKeys.push_back(exact(projected, t, s.heads + head));
        exactValues.push_back(exact(projected, t, s.heads + s.kvHeads + head));
        for (bool value : {false, true}) {
          const Doubles &x = value ? exactValues.back() : exactKeys.back();
          auto [codes, scale] = stored(t, head, value);
          double most = largestOf(x);
          EXPECT_NEAR(scale, most / 127, 1e-5 * most);
          for (int64_t c = 0; c < s.headDim; ++c)
            ASSERT_LE(std::abs(codes[c] - x[c]), scale / 2 + 1e-5 * most);
          (value ? values : keys).push_back(codes);
        }
      }
      for (int64_t t = 0; t < tokens(); ++t)
        for (int64_t i = 0; i < group; ++i) {
          Doubles row = query(t, head * group + i),
                  exactRow = exact(projected, t, head * group + i);
          for (double &x : exactRow)
            x *= base;
          double most = largestOf(exactRow), step = most / 127;
          for (int64_t c = 0; c < s.headDim; ++c)
            ASSERT_LE(std::abs(row[c] - exactRow[c]), step / 2 + 1e-5 * most);
          Doubles fromCodes(s.headDim), inTruth(s.headDim);
          double totalFromCodes = 0, totalInTruth = 0, scoreError = 0, valueStep = 0, largest = 0;
          double highest = -1e300;
          forVisible(t, [&](int64_t other) { highest = std::max(highest, dot(row, keys[other])); });
          forVisible(t, [&](int64_t other) {
            double weight = std::exp2(dot(row, keys[other]) - highest),
                   truth = std::exp2(dot(exactRow, exactKeys[other]) - highest);
            totalFromCodes += weight;
            totalInTruth += truth;
            for (int64_t c = 0; c < s.headDim; ++c) {
              fromCodes[c] += weight * values[other][c];
              inTruth[c] += truth * exactValues[other][c];
            }
            double keyStep = largestOf(exactKeys[other]) / 127;
            scoreError =
                std::max(scoreError, sumOf(exactRow) * keyStep / 2 + sumOf(keys[other]) * step / 2);
            valueStep = std::max(valueStep, largestOf(exactValues[other]) / 127);
            largest = std::max(largest, largestOf(exactValues[other]));
          });
          for (int64_t c = 0; c < s.headDim; ++c) {
            double out = got[(t * s.heads + head * group + i) * s.headDim + c];
            // Half a step for each of a page's 64 weights, where the largest weight is 1.
            double ofWeights = 64.0 / (2 * PageWeights::largest) + 1e-5;
            ASSERT_NEAR(out, fromCodes[c] / totalFromCodes, ofWeights * largest);
            // A score that is off by e makes a weight, and the total, 2^e times too large.
            double bound = valueStep / 2 + (std::exp2(2 * scoreError) - 1 + ofWeights) * largest;
            ASSERT_NEAR(out, inTruth[c] / totalInTruth, bound);
            sumOfErrors += std::pow(out - inTruth[c] / totalInTruth, 2);
            sumOfValues += std::pow(inTruth[c] / totalInTruth, 2);
          }
        }
    }
    // The bounds are of the worst case; errors of random signs are far below.
    double relative = std::sqrt(sumOfErrors / sumOfValues);
    RecordProperty("relative_error_" + std::to_string(s.headDim), std::to_string(relative));
    EXPECT_LE(relative, 0.02);
  }
}

// One position has most of the weight, and each of the others less than half a step of eight bits.
TEST_P(Int8Cache, SmallWeightsOfAPageCount) {
  lengths = {64};
  make({1, 1, 64, 0});
  go();
  q.assign(cache.queryRow().bytes(), std::byte(0));
  float queryScale = 1, keyScale = float(std::log2(600.0)) / 127, one = 1, valueScale = 1.0f / 127;
  int32_t queryCode = 1;
  memcpy(&q[ActivationRow::scaleAt], &queryScale, 4);
  int32_t start = -128 * queryCode;
  memcpy(&q[ActivationRow::startAt], &start, 4);
  q[cache.queryRow().codesAt()] = std::byte(queryCode);
  // Position 17 scores log2(600) and is worth 0; the others score 0 and are worth 1.
  std::byte *page = &pages[before + blocks[0] * cache.pageBytes], *values = page + cache.keyBytes();
  for (int64_t p = 0; p < 64; ++p) {
    memcpy(page + p * 4, p == 17 ? &keyScale : &one, 4);
    memcpy(values + p * 4, &valueScale, 4);
    for (int64_t c = 0; c < 64; ++c) {
      page[256 + c / 4 * 256 + p * 4 + c % 4] = std::byte(p == 17 && c == 0 ? 255 : 128);
      values[256 + p / 4 * 256 + c * 4 + p % 4] = std::byte(p == 17 ? 128 : 255);
    }
  }
  Ints last{63}, sequence{0};
  Floats out(64);
  runAttention(last, sequence, out, 1);
  for (float x : out)
    EXPECT_NEAR(x, 63.0 / (600 + 63), 64.0 / (2 * PageWeights::largest));
}

// Pages come back from other sequences with anything in them.
TEST_P(Int8Cache, WhatWasNeverWrittenDoesNotCount) {
  make({4, 2, 32, 64});
  Floats zeros = go(), garbage = go(std::byte(0xff));
  EXPECT_EQ(zeros, garbage);
}

TEST_P(Int8Cache, NotANumberStaysOne) {
  make({4, 2, 32, 0});
  h[20 * hidden + 3] = std::numeric_limits<float>::quiet_NaN(); // position 20 of the first sequence
  Floats got = go();
  for (int64_t t = 0; t < tokens(); ++t)
    for (int64_t c = 0; c < 4 * 32; ++c) {
      bool poisoned = sequences[t] == 0 && positions[t] > 20;
      if (t != 20) // which the residual stream keeps as it is
        ASSERT_EQ(std::isnan(got[t * 128 + c]), poisoned) << "token " << t;
    }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Int8Cache, onAllTargets({kF32Kind}), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, Int8Cache, onNewerArm({kF32Kind}), nameOfCase);

} // namespace
