// A box of one tensor, transposed or not: what weights are made of, and how its elements are read.
#ifndef MOE_RUNTIME_WEIGHTS_TENSORSLICE_H
#define MOE_RUNTIME_WEIGHTS_TENSORSLICE_H

#include "runtime/weights/TensorSource.h"

namespace moe {

// An offset and a size, in elements, for each dimension of the tensor. `transposed` swaps the last
// two dimensions of the box after it was taken.
struct TensorSlice {
  std::string tensor;
  std::vector<int64_t> offsets, sizes;
  bool transposed = false;

  bool operator==(const TensorSlice &) const = default;
};

// Reads a slice. Elements are counted in the row-major order of the slice, after the transposition.
// Constant once opened: any number of threads may read.
class SliceReader {
public:
  // Fails where `tensors`, which must outlive the reader, has no tensor of that name, or the slice
  // is not inside of it. The message lacks its subject, which is what the slice is for: "takes
  // ...".
  static Result<SliceReader> open(const TensorSource &tensors, TensorSlice slice);

  const TensorSlice &slice() const { return box; }
  const TensorInfo &tensor() const { return *info; }
  int64_t elements() const { return count; }
  // Of the matrices [rows, cols] that the last two dimensions are.
  int64_t rows() const { return matrixRows; }
  int64_t cols() const { return matrixCols; }

  // The index in the tensor of an element. Where the slice is transposed, the elements below one
  // in its column are neighbours there.
  int64_t place(int64_t element) const;
  // How many elements from this one on are neighbours in the tensor too.
  int64_t runLength(int64_t element) const { return box.transposed ? 1 : run - element % run; }

  // The elements begin .. begin + out.size() - 1, which the slice has.
  Status read(int64_t begin, std::span<float> out) const;

private:
  // The place of the first element of run or matrix `index`, counted over the first `dims`
  // dimensions.
  int64_t placeOf(int64_t index, size_t dims) const;
  // Whole rows of one matrix of a transposed slice, from element `begin` on.
  Status readRows(int64_t begin, int64_t rows, std::span<float> out) const;

  const TensorSource *tensors = nullptr;
  const TensorInfo *info = nullptr;
  TensorSlice box;
  std::vector<int64_t> strides; // of the tensor
  int64_t first = 0;            // place of the box's first element
  int64_t count = 1, matrixRows = 1, matrixCols = 1;
  int64_t run = 1; // elements that are neighbours in the tensor, of a slice that is not transposed
  size_t runDims = 0; // dimensions that count the runs
};

// Reads a weight, which is slices one after the other: elements are counted through all of them.
// Constant once opened, as the slices' readers.
class WeightReader {
public:
  // Fails as SliceReader::open.
  static Result<WeightReader> open(const TensorSource &tensors, std::vector<TensorSlice> slices);

  int64_t elements() const { return ends.empty() ? 0 : ends.back(); }
  // The elements begin .. begin + out.size() - 1, which the weight has.
  Status read(int64_t begin, std::span<float> out) const;

private:
  std::vector<SliceReader> slices;
  std::vector<int64_t> ends; // of slices
};

} // namespace moe

#endif
