// Rows of matrices, for the reference's loops.
#ifndef MOE_DIALECTS_MOE_REFERENCEROWS_H
#define MOE_DIALECTS_MOE_REFERENCEROWS_H

#include "dialects/moe/MoeReference.h"

#include <cassert>

namespace moe::reference {

/// How many rows of `width` elements there are in a matrix of `size` elements.
inline int64_t rowCount(size_t size, int64_t width) {
  assert((width > 0 || size == 0) && "elements in rows of none");
  assert((width == 0 || int64_t(size) % width == 0) && "not a whole number of rows");
  return width > 0 ? int64_t(size) / width : 0;
}

template <typename T> std::span<T> row(std::span<T> matrix, int64_t index, int64_t width) {
  return matrix.subspan(size_t(index * width), size_t(width));
}

inline double dot(View a, View b) {
  assert(a.size() == b.size());
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i)
    sum += double(a[i]) * b[i];
  return sum;
}

/// Columns `begin` to `end` of each row.
inline Values columns(View x, int64_t width, int64_t begin, int64_t end) {
  Values result;
  for (int64_t t = 0; t < rowCount(x.size(), width); ++t)
    for (int64_t c = begin; c < end; ++c)
      result.push_back(x[size_t(t * width + c)]);
  return result;
}

} // namespace moe::reference

#endif
