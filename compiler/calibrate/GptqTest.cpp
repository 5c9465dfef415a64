// Error feedback against the method's definition, step by step in float64, and what it is good for.
#include "compiler/calibrate/Gptq.h"
#include "compiler/plan/TestGroup.h"
#include <gtest/gtest.h>

#include <Eigen/LU>
#include <numeric>
#include <random>

using namespace moe;

namespace {

struct Case {
  Matrix x, w;
  WeightFormat format;
};

// Activations whose channels depend on each other, as those of a model do.
Case randomCase(std::mt19937 &random, int64_t tokens, int64_t n, int64_t k, WeightFormat format) {
  std::normal_distribution<float> normal;
  const auto fill = [&](int64_t rows, int64_t cols) {
    Matrix m(rows, cols);
    for (float &v : m.reshaped())
      v = normal(random);
    return m;
  };
  Matrix x = fill(tokens, k) + fill(tokens, 4) * fill(4, k);
  for (int64_t c = 0; c < k; ++c)
    x.col(c) *= std::exp(0.5f * normal(random));
  return {x, fill(n, k), format};
}

Matrix dequantized(const Case &c, llvm::ArrayRef<uint8_t> codes, llvm::ArrayRef<float> scales) {
  Matrix q(c.w.rows(), c.w.cols());
  const int64_t groups = q.cols() / c.format.group;
  for (int64_t r = 0; r < q.rows(); ++r)
    for (int64_t k = 0; k < q.cols(); ++k)
      q(r, k) = dequantize(c.format, codes[r * q.cols() + k],
                           scales[r * groups + k / c.format.group], c.format.zero());
  return q;
}

struct Rounded {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};
Rounded rounded(const Case &c, const ErrorFeedback &feedback, const Matrix &w) {
  Rounded out;
  out.codes.resize(size_t(w.size()));
  out.scales.resize(size_t(w.size() / c.format.group));
  feedback.round(c.format, w, out.codes, out.scales);
  return out;
}

double productError(const Case &c, const Matrix &q) {
  return (c.x * (c.w - q).transpose()).cast<double>().squaredNorm();
}

// Round a column, spread its error over those that are left by the inverse of what is left of H,
// and take the column out of that inverse (Optimal Brain Quantization, the start of the paper).
Matrix byDefinition(const Case &c, double damping, llvm::ArrayRef<float> scales) {
  const int64_t k = c.x.cols(), groups = k / c.format.group;
  Eigen::MatrixXd h = (c.x.transpose() * c.x).cast<double>();
  std::vector<int64_t> order(k);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int64_t a, int64_t b) { return h(a, a) > h(b, b); });
  const Eigen::VectorXd diagonal = h.diagonal();
  h *= double(c.x.rows()) / double(c.x.rows() + k);
  h.diagonal() = diagonal.array() + damping * diagonal.mean();
  Eigen::MatrixXd inverse = h.inverse(), w = c.w.cast<double>();
  Matrix q(c.w.rows(), k);
  for (int64_t column : order) {
    for (int64_t r = 0; r < w.rows(); ++r) {
      const float scale = scales[r * groups + column / c.format.group];
      const double code = std::clamp(std::nearbyint(w(r, column) / scale), -8.0, 7.0);
      q(r, column) = float(code * scale);
    }
    Eigen::VectorXd error =
        (w.col(column) - q.col(column).cast<double>()) / inverse(column, column);
    w -= error * inverse.row(column);
    Eigen::MatrixXd taken = inverse.col(column) * inverse.row(column) / inverse(column, column);
    inverse -= taken;
  }
  return q;
}

TEST(GptqTest, IsWhatThePaperDefines) {
  std::mt19937 random(1);
  for (int64_t k : {8, 40, 300}) { // fewer and more columns than a block
    Case c = randomCase(random, 3 * k, 6, k, {Storage::I4, k / 2, Storage::F16});
    auto feedback = ErrorFeedback::create(c.x, 0.05);
    ASSERT_TRUE(bool(feedback));
    Rounded result = rounded(c, *feedback, c.w);
    Matrix found = dequantized(c, result.codes, result.scales);
    Matrix expected = byDefinition(c, 0.05, result.scales);
    // A tie that float32 breaks differently changes all that comes after it in its row.
    int64_t same = 0;
    for (int64_t r = 0; r < c.w.rows(); ++r)
      same += (found.row(r) - expected.row(r)).cwiseAbs().maxCoeff() < 1e-6f;
    EXPECT_GE(same, 5) << k;
    EXPECT_NEAR(productError(c, found), productError(c, expected), 0.01 * productError(c, expected))
        << k;
  }
}

TEST(GptqTest, LeavesLessErrorThanRounding) {
  std::mt19937 random(2);
  for (int round = 0; round < 4; ++round) {
    Case c = randomCase(random, 400, 16, 128, {Storage::I4, round % 2 ? 32 : 128, Storage::F16});
    auto feedback = ErrorFeedback::create(c.x);
    ASSERT_TRUE(bool(feedback));
    Rounded result = rounded(c, *feedback, c.w);
    Rounded nearest = result;
    for (int64_t i = 0; i < c.w.size(); i += c.format.group)
      nearest.scales[i / c.format.group] = test::quantizeGroup(
          c.format, ScaleChoice::LeastSquares, {c.w.data() + i, size_t(c.format.group)},
          feedback->importance().slice(i % c.w.cols(), c.format.group),
          llvm::MutableArrayRef(nearest.codes).slice(i, c.format.group));
    EXPECT_EQ(result.scales, nearest.scales);
    EXPECT_LT(productError(c, dequantized(c, result.codes, result.scales)),
              0.7 * productError(c, dequantized(c, nearest.codes, nearest.scales)));
  }
}

// What few tokens happen to have in common is not what all have.
TEST(GptqTest, FewTokensDoNoHarm) {
  std::mt19937 random(5);
  for (int64_t tokens : {4, 20, 60}) {
    Case c = randomCase(random, 2000, 16, 128, {Storage::I4, 64, Storage::F16});
    auto feedback = ErrorFeedback::create(c.x.topRows(tokens));
    ASSERT_TRUE(bool(feedback));
    Rounded result = rounded(c, *feedback, c.w), nearest = result;
    for (int64_t i = 0; i < c.w.size(); i += c.format.group)
      nearest.scales[i / c.format.group] = test::quantizeGroup(
          c.format, ScaleChoice::LeastSquares, {c.w.data() + i, size_t(c.format.group)}, {},
          llvm::MutableArrayRef(nearest.codes).slice(i, c.format.group));
    EXPECT_LT(productError(c, dequantized(c, result.codes, result.scales)),
              1.1 * productError(c, dequantized(c, nearest.codes, nearest.scales)))
        << tokens;
  }
}

TEST(GptqTest, RowsDoNotDependOnEachOther) {
  std::mt19937 random(3);
  Case c = randomCase(random, 100, 9, 64, {Storage::I4, 32, Storage::BF16});
  auto feedback = ErrorFeedback::create(c.x);
  ASSERT_TRUE(bool(feedback));
  Rounded all = rounded(c, *feedback, c.w);
  for (int64_t r = 0; r < c.w.rows(); ++r) {
    Rounded one = rounded(c, *feedback, c.w.row(r));
    EXPECT_TRUE(std::equal(one.codes.begin(), one.codes.end(), all.codes.begin() + r * 64));
  }
}

// One token, channels that are never used, a weight of zeros: nothing to divide by.
TEST(GptqTest, FewActivations) {
  std::mt19937 random(4);
  Case c = randomCase(random, 1, 5, 32, {Storage::I4, 16, Storage::F16});
  c.x.leftCols(8).setZero();
  c.w.row(2).setZero();
  auto feedback = ErrorFeedback::create(c.x);
  ASSERT_TRUE(bool(feedback));
  Rounded result = rounded(c, *feedback, c.w);
  Matrix q = dequantized(c, result.codes, result.scales);
  EXPECT_TRUE(q.allFinite());
  EXPECT_EQ(q.row(2).cwiseAbs().maxCoeff(), 0);

  c.x.setZero();
  EXPECT_TRUE(bool(feedback = ErrorFeedback::create(c.x)));
  c.x(0, 3) = NAN;
  auto bad = ErrorFeedback::create(c.x);
  ASSERT_FALSE(bool(bad));
  EXPECT_EQ(llvm::toString(bad.takeError()),
            "the activations of the calibration text are not finite");
}

} // namespace
