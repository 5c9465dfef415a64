// Rounds the rows of a weight to codes with error feedback: GPTQ, Frantar et al. 2022,
// https://arxiv.org/abs/2210.17323.
//
// The error of a product W x over the calibration's tokens is (W - Q) H (W - Q)^T, with H = sum of
// x x^T. Columns are rounded one after the other, those with the largest diagonal of H first, and
// what rounding a column did to the product is made good, as far as it can be, in the columns that
// are still to come. Groups of columns and their scales are settled before (the "static groups" of
// the authors' program), so the order of rounding leaves no trace in the format.
#ifndef MOE_COMPILER_CALIBRATE_GPTQ_H
#define MOE_COMPILER_CALIBRATE_GPTQ_H

#include "runtime/weights/Format.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/Support/Error.h"

#include <Eigen/Core>
#include <vector>

namespace moe {

// Row-major, as activations and weights are.
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// What error feedback needs of the activations x [tokens, k] that a weight is multiplied with. Any
// number of threads may use it.
class ErrorFeedback {
public:
  // `damping` times the mean of H's diagonal is added to it, more where H is still not positive
  // definite in float64. Error: the activations are not finite.
  static llvm::Expected<ErrorFeedback> create(const Matrix &x, double damping = 0.01);

  int64_t columns() const { return int64_t(order.size()); }
  // E[x_k^2] of each column.
  llvm::ArrayRef<float> importance() const { return importances; }

  // rows [n, k] -> codes [n, k] and scales [n, k / format.group], both row-major. The format is
  // that of integers without zeros; its group divides k. An infinite scale says that format.scale
  // cannot hold it. A row's codes do not depend on the other rows.
  void round(const WeightFormat &format, const Matrix &rows, llvm::MutableArrayRef<uint8_t> codes,
             llvm::MutableArrayRef<float> scales) const;

private:
  ErrorFeedback() = default;

  std::vector<int> order;         // the column that is rounded i-th
  std::vector<float> importances; // by column
  // The upper triangular U with inverse(H) = U^T U, rows and columns in `order`.
  Eigen::MatrixXf factor;
};

} // namespace moe

#endif
