// The elements of one quantized tensor: where its codes, scales and zeros lie, whatever library
// packed them, and how they are decoded.
//
// A tensor is seen as matrices `[rows, cols]`, its last two dimensions. Codes are as
// runtime/weights/Format.h says, element = (code - zero) * scale, which is exact in float32 for
// codes of 4 and 8 bits and scales of 16.
#ifndef MOE_COMPILER_IMPORT_CODEDTENSOR_H
#define MOE_COMPILER_IMPORT_CODEDTENSOR_H

#include "runtime/weights/TensorSource.h"

namespace moe {

// A number for each block of rows and columns of the matrices of a tensor: of the block at (row,
// col) of matrix m it is element m * matrixStride + row / blockRows * rowStride + col / blockCols *
// colStride. Strides of 0 share a number among all.
struct BlockGrid {
  int64_t blockRows = 1, blockCols = 1;
  int64_t matrixStride = 0, rowStride = 0, colStride = 0;

  int64_t index(int64_t matrix, int64_t row, int64_t col) const {
    return matrix * matrixStride + row / blockRows * rowStride + col / blockCols * colStride;
  }
};

struct CodedTensor {
  enum class Codes {
    Bytes,      // one a byte, as the elements: FP8, or signed integers
    PackedRows, // compressed-tensors: along the columns, unsigned, the lowest bits first
    Awq,  // AutoAWQ: 8 rows of a column in a word, in the order 0 2 4 6 1 3 5 7, [cols, rows/8]
    Gptq, // columns of a row in a word, [cols * bits / 32, rows]
  };
  enum class Zeros {
    Middle,     // 8 or 128, or none of FP8
    Bytes,      // signed, on the grid of the scales
    PackedRows, // compressed-tensors: along the rows, [rows * bits / 32, groups]
    Awq,        // [groups, rows / 8]
    Gptq,       // [groups, rows * bits / 32]
  };

  int64_t matrices = 1, rows = 0, cols = 0;
  Storage element = Storage::I4; // F8E4M3, I8 or I4
  bool inputsFirst = false;

  Codes codes = Codes::Bytes;
  int64_t bits = 8;
  const std::byte *codeBytes = nullptr;

  BlockGrid grid; // of the scales and zeros
  const TensorInfo *scales = nullptr;
  const std::byte *scaleBytes = nullptr;

  Zeros zeros = Zeros::Middle;
  const TensorInfo *zeroTensor = nullptr;
  const std::byte *zeroBytes = nullptr;
  int64_t zeroOffset = 0;  // what is added to the zeros as stored, modulo 2^bits
  bool checkZeros = false; // they must be those of a format without zeros

  // How codes are given to the packer, if a plan can have them so: the group divides the inputs,
  // and there are zeros for 4 bits only.
  std::optional<Encoding> encoding() const;

  // Elements, scales and zeros in row-major order; the latter two are [matrices, rows, cols /
  // group], or [matrices, rows / group, cols] if the inputs are first. A scale that is not a
  // positive number is an error. The range is inside.
  Status read(uint64_t begin, std::span<float> out) const;
  Status readScales(uint64_t begin, std::span<float> out) const;
  Status readZeros(uint64_t begin, std::span<float> out) const;

private:
  // Elements of one matrix, `stride` apart from row to row.
  Status readBox(int64_t matrix, int64_t row, int64_t rowCount, int64_t col, int64_t colCount,
                 float *out, int64_t stride) const;
  void unpack(int64_t matrix, int64_t row, int64_t rowCount, int64_t col, int64_t colCount,
              uint8_t *out) const;
  Result<float> scaleAt(int64_t matrix, int64_t row, int64_t col) const;
  Result<float> zeroAt(int64_t matrix, int64_t row, int64_t col) const;
  template <typename At> Status readGroups(uint64_t begin, std::span<float> out, At at) const;
};

} // namespace moe

#endif
