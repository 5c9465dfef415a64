// Decodes in tiles, whose rows share a group or whose columns have scales of their own, so that
// formats which store the inputs of a row far apart are read by cache lines too.
#include "compiler/import/CodedTensor.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"

#include <array>
#include <cmath>
#include <cstring>

using namespace moe;
using llvm::Twine;

static constexpr int64_t kTileRows = 64, kTileCols = 256;

// Of 4 or 8 bits: code `i` of a run that begins at `words`, the lowest bits first.
static uint8_t codeAt(const std::byte *words, int64_t i, int64_t bits) {
  if (bits == 8)
    return uint8_t(words[i]);
  return uint8_t(words[i / 2]) >> (i % 2 * 4) & 15;
}

// Where AutoAWQ puts row j of 8 in a word.
static constexpr int64_t kAwqPlaces[8] = {0, 4, 1, 5, 2, 6, 3, 7};

// What a code is before its zero and scale.
static const float *valuesOf(Storage element) {
  static const auto values = [] {
    std::array<std::array<float, 256>, std::size(kStorages)> values = {};
    for (Storage storage : kStorages)
      if (infoOf(storage).codes)
        for (uint32_t code = 0; code < uint32_t(1) << bitsOf(storage); ++code)
          values[size_t(storage)][code] = infoOf(storage).decode(code, 0);
    return values;
  }();
  return values[size_t(element)].data();
}

std::optional<Encoding> CodedTensor::encoding() const {
  int64_t inputs = inputsFirst ? rows : cols;
  int64_t group = std::min(inputs, inputsFirst ? grid.blockRows : grid.blockCols);
  bool ownZeros = zeros != Zeros::Middle && !checkZeros;
  if (inputs == 0 || inputs % group != 0 || (ownZeros && infoOf(element).mostZero == 0))
    return std::nullopt;
  return Encoding{{element, group, *scales->dtype, ownZeros}, inputsFirst};
}

// "[3, 0]", the place of an element of a tensor.
static std::string placeText(const TensorInfo &tensor, int64_t index) {
  std::vector<int64_t> place(tensor.shape.size());
  for (size_t d = place.size(); d-- > 0; index /= tensor.shape[d])
    place[d] = index % tensor.shape[d];
  return shapeText(place);
}

Result<float> CodedTensor::scaleAt(int64_t matrix, int64_t row, int64_t col) const {
  int64_t index = grid.index(matrix, row, col);
  float scale;
  toFloat(*scales->dtype, scaleBytes + index * bytesOf(*scales->dtype), 1, &scale);
  if (scale > 0 && std::isfinite(scale))
    return scale;
  return Error{Code::InvalidArgument,
               "the scale at " + placeText(*scales, index) + " of tensor " + scales->name + " is " +
                   (std::isnan(scale)   ? std::string("NaN")
                    : std::isinf(scale) ? std::string(scale > 0 ? "infinite" : "-infinite")
                                        : llvm::formatv("{0}", scale).str()) +
                   ", expected a positive number"};
}

Result<float> CodedTensor::zeroAt(int64_t matrix, int64_t row, int64_t col) const {
  WeightFormat plain{element};
  int64_t perWord = 32 / bits, group = col / grid.blockCols;
  int64_t groups = (cols + grid.blockCols - 1) / grid.blockCols;
  int64_t words = (rows + perWord - 1) / perWord;
  int64_t stored = 0;
  auto wordOf = [&](int64_t index) { return zeroBytes + (matrix * words * groups + index) * 4; };
  switch (zeros) {
  case Zeros::Middle:
    return float(plain.zero());
  case Zeros::Bytes:
    return float(plain.zero() + int8_t(zeroBytes[grid.index(matrix, row, col)]));
  case Zeros::PackedRows:
    stored = codeAt(wordOf(row / perWord * groups + group), row % perWord, bits);
    break;
  case Zeros::Awq:
    stored = codeAt(wordOf(group * words + row / 8), kAwqPlaces[row % 8], bits);
    break;
  case Zeros::Gptq:
    stored = codeAt(wordOf(group * words + row / perWord), row % perWord, bits);
    break;
  }
  stored = (stored + zeroOffset) & ((int64_t(1) << bits) - 1);
  if (checkZeros && stored != plain.zero())
    return Error{Code::InvalidArgument,
                 ("the zero of row " + Twine(row) + " and group " + Twine(group) + " of tensor " +
                  zeroTensor->name + " is " + Twine(stored) + ", expected " + Twine(plain.zero()) +
                  " as the configuration says that the format is symmetric")
                     .str()};
  return float(stored);
}

// The codes of a box of one matrix, row after row.
void CodedTensor::unpack(int64_t matrix, int64_t row, int64_t rowCount, int64_t col,
                         int64_t colCount, uint8_t *out) const {
  switch (codes) {
  case Codes::Bytes:
    for (int64_t r = 0; r < rowCount; ++r) {
      uint8_t *to = out + r * colCount;
      std::memcpy(to, codeBytes + (matrix * rows + row + r) * cols + col, size_t(colCount));
      if (element == Storage::I8) // from two's complement to offset binary
        for (int64_t c = 0; c < colCount; ++c)
          to[c] ^= 0x80;
    }
    return;
  case Codes::PackedRows: {
    int64_t rowBytes = (cols * bits + 31) / 32 * 4;
    for (int64_t r = 0; r < rowCount; ++r) {
      const std::byte *from = codeBytes + (matrix * rows + row + r) * rowBytes;
      for (int64_t c = 0; c < colCount; ++c)
        out[r * colCount + c] = codeAt(from, col + c, bits);
    }
    return;
  }
  case Codes::Awq:
    for (int64_t c = 0; c < colCount; ++c) {
      const std::byte *from = codeBytes + (matrix * cols + col + c) * (rows / 8) * 4;
      for (int64_t r = 0; r < rowCount; ++r)
        out[r * colCount + c] = codeAt(from + (row + r) / 8 * 4, kAwqPlaces[(row + r) % 8], bits);
    }
    return;
  case Codes::Gptq: {
    int64_t perWord = 32 / bits, words = cols / perWord;
    for (int64_t c = 0; c < colCount; ++c) {
      const std::byte *from = codeBytes + (matrix * words + (col + c) / perWord) * rows * 4;
      for (int64_t r = 0; r < rowCount; ++r)
        out[r * colCount + c] = codeAt(from + (row + r) * 4, (col + c) % perWord, bits);
    }
    return;
  }
  }
}

Status CodedTensor::readBox(int64_t matrix, int64_t row, int64_t rowCount, int64_t col,
                            int64_t colCount, float *out, int64_t stride) const {
  const float *values = valuesOf(element);
  uint8_t tile[kTileRows * kTileCols];
  float scale[kTileCols], zero[kTileRows];
  bool byColumn = grid.blockCols == 1; // then all zeros are the middle
  int64_t rowEnd = row + rowCount, colEnd = col + colCount;
  for (int64_t r = row, tileRows; r < rowEnd; r += tileRows) {
    tileRows = std::min(kTileRows, rowEnd - r);
    if (byColumn) // up to the end of a block
      tileRows = std::min(tileRows, grid.blockRows - r % grid.blockRows);
    for (int64_t c = col, tileCols; c < colEnd; c += tileCols) {
      tileCols = std::min(kTileCols, colEnd - c);
      if (!byColumn)
        tileCols = std::min(tileCols, grid.blockCols - c % grid.blockCols);
      for (int64_t i = 0; i < (byColumn ? tileCols : tileRows); ++i) {
        MOE_ASSIGN(found, byColumn ? scaleAt(matrix, r, c + i) : scaleAt(matrix, r + i, c));
        scale[i] = found;
      }
      for (int64_t i = 0; i < tileRows; ++i) {
        MOE_ASSIGN(found, zeroAt(matrix, r + i, c));
        zero[i] = found;
      }
      unpack(matrix, r, tileRows, c, tileCols, tile);
      for (int64_t i = 0; i < tileRows; ++i) {
        const uint8_t *from = tile + i * tileCols;
        float *to = out + (r - row + i) * stride + (c - col);
        if (byColumn)
          for (int64_t j = 0; j < tileCols; ++j)
            to[j] = (values[from[j]] - zero[i]) * scale[j];
        else
          for (int64_t j = 0; j < tileCols; ++j)
            to[j] = (values[from[j]] - zero[i]) * scale[i];
      }
    }
  }
  return ok();
}

Status CodedTensor::read(uint64_t begin, std::span<float> out) const {
  float *elements = out.data();
  // A part of a row, whole rows of one matrix, a part of a row.
  for (uint64_t at = begin, end = begin + out.size(); at < end;) {
    int64_t line = int64_t(at) / cols, col = int64_t(at) % cols; // line: row of all matrices
    int64_t matrix = line / rows, row = line % rows;
    int64_t left = int64_t(end - at), rowCount = 1, colCount = std::min(left, cols - col);
    if (col == 0 && left >= cols)
      rowCount = std::min(left / cols, rows - row);
    MOE_TRY(readBox(matrix, row, rowCount, col, colCount, elements, cols));
    at += uint64_t(rowCount * colCount);
    elements += rowCount * colCount;
  }
  return ok();
}

template <typename At>
Status CodedTensor::readGroups(uint64_t begin, std::span<float> out, At at) const {
  int64_t group = encoding()->format.group;
  int64_t rowStep = inputsFirst ? group : 1, colStep = inputsFirst ? 1 : group;
  int64_t gridRows = rows / rowStep, gridCols = cols / colStep;
  for (float &element : out) {
    int64_t line = int64_t(begin) / gridCols, col = int64_t(begin) % gridCols;
    MOE_ASSIGN(value, at(line / gridRows, line % gridRows * rowStep, col * colStep));
    element = value;
    ++begin;
  }
  return ok();
}

Status CodedTensor::readScales(uint64_t begin, std::span<float> out) const {
  return readGroups(begin, out, [&](int64_t matrix, int64_t row, int64_t col) {
    return scaleAt(matrix, row, col);
  });
}

Status CodedTensor::readZeros(uint64_t begin, std::span<float> out) const {
  return readGroups(begin, out, [&](int64_t matrix, int64_t row, int64_t col) {
    return zeroAt(matrix, row, col);
  });
}
