// Error feedback in blocks of columns: inside a block column by column, then the whole block's
// errors go to all later columns as one product.
#include "compiler/calibrate/Gptq.h"
#include "compiler/plan/Quantize.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <numeric>

using namespace moe;

namespace {
constexpr int kBlock = 128;
}

llvm::Expected<ErrorFeedback> ErrorFeedback::create(const Matrix &x, double damping) {
  const Eigen::Index k = x.cols();
  Eigen::MatrixXf hessian = Eigen::MatrixXf::Zero(k, k);
  hessian.selfadjointView<Eigen::Lower>().rankUpdate(x.transpose());
  if (!hessian.diagonal().allFinite())
    return llvm::createStringError("the activations of the calibration text are not finite");

  ErrorFeedback out;
  out.importances.resize(k);
  for (Eigen::Index i = 0; i < k; ++i)
    out.importances[i] = hessian(i, i) / float(std::max<Eigen::Index>(1, x.rows()));
  out.order.resize(k);
  std::iota(out.order.begin(), out.order.end(), 0);
  std::ranges::stable_sort(out.order, [&](int a, int b) { return hessian(a, a) > hessian(b, b); });

  const auto shrink = float(double(x.rows()) / double(x.rows() + k));
  // With P H P = R R^T for an upper R, inverse(H) = R^-T R^-1, so U = R^-1: one factorization of
  // the matrix with its order turned around, and no inverse of H.
  const double mean = std::max(double(hessian.diagonal().mean()), 1e-30);
  for (double added = std::max(damping, 1e-6) * mean;; added *= 10) {
    Eigen::MatrixXd turned(k, k);
    for (Eigen::Index c = 0; c < k; ++c)
      for (Eigen::Index r = c; r < k; ++r) {
        const int a = out.order[k - 1 - r], b = out.order[k - 1 - c];
        const float h = hessian(std::max(a, b), std::min(a, b));
        turned(r, c) = r == c ? h + added : h * shrink;
      }
    Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>> lower(turned);
    if (lower.info() != Eigen::Success)
      continue;
    Eigen::MatrixXd inverse = Eigen::MatrixXd::Identity(k, k);
    lower.matrixL().solveInPlace(inverse);
    out.factor = inverse.reverse().cast<float>();
    if (out.factor.allFinite())
      return out;
  }
}

void ErrorFeedback::round(const WeightFormat &format, const Matrix &rows,
                          llvm::MutableArrayRef<uint8_t> codes,
                          llvm::MutableArrayRef<float> scales) const {
  const Eigen::Index n = rows.rows(), k = rows.cols();
  const int64_t groups = k / format.group;
  const StorageInfo &info = infoOf(format.element);
  const auto zero = float(info.zero);
  // Scales are those of the weight as it is, weighed by how much each column matters.
  constexpr Eigen::Index tile = kQuantizedGroups; // rows
  Matrix turned = Matrix::Zero(format.group, tile);
  std::vector<uint8_t> nearest(size_t(turned.size()));
  float found[tile];
  for (Eigen::Index r = 0; r < n; r += tile)
    for (int64_t g = 0; g < groups; ++g) {
      const Eigen::Index count = std::min(tile, n - r), begin = g * format.group;
      turned.leftCols(count) = rows.block(r, begin, count, format.group).transpose();
      quantizeGroups(format, ScaleChoice::LeastSquares, turned.data(), tile, format.group,
                     llvm::ArrayRef(importances).slice(begin, format.group), found, nearest.data());
      for (Eigen::Index i = 0; i < count; ++i)
        scales[(r + i) * groups + g] = found[i];
    }

  Eigen::MatrixXf left(n, k); // in the order of rounding
  for (Eigen::Index i = 0; i < k; ++i)
    left.col(i) = rows.col(order[i]);
  Eigen::MatrixXf errors(n, kBlock);
  for (Eigen::Index begin = 0; begin < k; begin += kBlock) {
    const Eigen::Index end = std::min<Eigen::Index>(k, begin + kBlock);
    for (Eigen::Index i = begin; i < end; ++i) {
      const int64_t column = order[i], group = column / format.group;
      for (Eigen::Index r = 0; r < n; ++r) {
        const float scale = scales[r * groups + group], value = left(r, i);
        float code = zero;
        if (scale != 0 && std::isfinite(scale))
          code =
              std::clamp(std::nearbyint(value / scale) + zero, info.low + zero, info.high + zero);
        codes[r * k + column] = uint8_t(code);
        errors(r, i - begin) = (value - (code - zero) * scale) / factor(i, i);
      }
      left.middleCols(i + 1, end - i - 1).noalias() -=
          errors.col(i - begin) * factor.row(i).segment(i + 1, end - i - 1);
    }
    left.rightCols(k - end).noalias() -=
        errors.leftCols(end - begin) * factor.block(begin, end, end - begin, k - end);
  }
}
