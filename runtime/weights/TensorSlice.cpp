// Slices are read in runs, as long as the tensor has them in one piece; rows of transposed ones in
// bands of columns, which are rows of the tensor.
#include "runtime/weights/TensorSlice.h"

#include <algorithm>

using namespace moe;

Result<SliceReader> SliceReader::open(const TensorSource &tensors, TensorSlice slice) {
  const auto error = [](std::string text) { return Error{Code::InvalidArgument, std::move(text)}; };
  SliceReader reader;
  reader.tensors = &tensors;
  reader.info = tensors.find(slice.tensor);
  if (!reader.info)
    return error("takes a slice of tensor '" + slice.tensor +
                 "', which the checkpoint does not have");
  const std::vector<int64_t> &shape = reader.info->shape, &sizes = slice.sizes;
  const size_t rank = shape.size();
  bool fits =
      slice.offsets.size() == rank && sizes.size() == rank && (!slice.transposed || rank >= 2);
  for (size_t d = 0; fits && d < rank; ++d)
    fits = slice.offsets[d] >= 0 && sizes[d] >= 0 && slice.offsets[d] <= shape[d] &&
           sizes[d] <= shape[d] - slice.offsets[d];
  if (!fits)
    return error("takes the slice at " + shapeText(slice.offsets) + " of size " + shapeText(sizes) +
                 (slice.transposed ? ", transposed," : "") + " from tensor '" + slice.tensor +
                 "' of the checkpoint, which has the shape " + shapeText(shape));

  reader.strides.assign(rank, 1);
  for (size_t d = rank; d-- > 1;)
    reader.strides[d - 1] = reader.strides[d] * shape[d];
  for (size_t d = 0; d < rank; ++d) {
    reader.first += slice.offsets[d] * reader.strides[d];
    reader.count *= sizes[d];
  }
  if (rank >= 1)
    reader.matrixCols = sizes[rank - 1];
  if (rank >= 2)
    reader.matrixRows = sizes[rank - 2];
  if (slice.transposed)
    std::swap(reader.matrixRows, reader.matrixCols);
  // A run ends where a dimension is not taken whole.
  reader.runDims = rank;
  while (reader.runDims > 0) {
    const size_t d = --reader.runDims;
    reader.run *= sizes[d];
    if (sizes[d] != shape[d])
      break;
  }
  reader.box = std::move(slice);
  return reader;
}

int64_t SliceReader::placeOf(int64_t index, size_t dims) const {
  int64_t at = first;
  for (size_t d = dims; d-- > 0; index /= box.sizes[d])
    at += index % box.sizes[d] * strides[d];
  return at;
}

int64_t SliceReader::place(int64_t element) const {
  if (!box.transposed)
    return placeOf(element / run, runDims) + element % run;
  const size_t outer = strides.size() - 2;
  const int64_t row = element / matrixCols % matrixRows, col = element % matrixCols;
  return placeOf(element / (matrixRows * matrixCols), outer) + col * strides[outer] + row;
}

Status SliceReader::read(int64_t begin, std::span<float> out) const {
  while (!out.empty()) {
    const auto left = int64_t(out.size());
    int64_t n = std::min(left, runLength(begin));
    if (box.transposed && begin % matrixCols == 0 && left >= matrixCols) {
      const int64_t rows =
          std::min(left / matrixCols, matrixRows - begin / matrixCols % matrixRows);
      n = rows * matrixCols;
      MOE_TRY(readRows(begin, rows, out.first(size_t(n))));
    } else {
      MOE_TRY(tensors->read(info->name, uint64_t(place(begin)), out.first(size_t(n))));
    }
    out = out.subspan(size_t(n));
    begin += n;
  }
  return ok();
}

Status SliceReader::readRows(int64_t begin, int64_t rows, std::span<float> out) const {
  constexpr int64_t kBand = 64;
  const bool neighbours = rows == info->shape.back(); // a band is one run of the tensor
  std::vector<float> band(size_t(std::min(kBand, matrixCols) * rows));
  for (int64_t col = 0; col < matrixCols; col += kBand) {
    const int64_t cols = std::min(kBand, matrixCols - col), reads = neighbours ? 1 : cols;
    const std::span<float> into = std::span(band).first(size_t(cols * rows));
    for (int64_t i = 0; i < reads; ++i) {
      const size_t length = into.size() / size_t(reads);
      MOE_TRY(tensors->read(info->name, uint64_t(place(begin + col + i)),
                            into.subspan(size_t(i) * length, length)));
    }
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < cols; ++i)
        out[size_t(row * matrixCols + col + i)] = band[size_t(i * rows + row)];
  }
  return ok();
}

Result<WeightReader> WeightReader::open(const TensorSource &tensors,
                                        std::vector<TensorSlice> slices) {
  WeightReader reader;
  for (TensorSlice &slice : slices) {
    MOE_ASSIGN(part, SliceReader::open(tensors, std::move(slice)));
    reader.ends.push_back(reader.elements() + part.elements());
    reader.slices.push_back(std::move(part));
  }
  return reader;
}

Status WeightReader::read(int64_t begin, std::span<float> out) const {
  auto i = size_t(std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin());
  for (; !out.empty(); ++i) {
    const int64_t start = i ? ends[i - 1] : 0;
    const auto n = size_t(std::min<int64_t>(int64_t(out.size()), ends[i] - begin));
    MOE_TRY(slices[i].read(begin - start, out.first(n)));
    out = out.subspan(n);
    begin += int64_t(n);
  }
  return ok();
}
