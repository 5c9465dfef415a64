// Makes the bytes of a packed weight out of the checkpoint tensors that it is made of.
#ifndef MOE_COMPILER_PLAN_PACK_H
#define MOE_COMPILER_PLAN_PACK_H

#include "compiler/plan/Quantize.h"
#include "dialects/plan/Packing.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/Error.h"

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace moe {

// Codes that a checkpoint holds in the place of a tensor's elements. Reading `tensor` gives the
// elements; `tensor:scale` and, where the format has zeros, `tensor:zero` are readable too, and
// have the tensor's shape with the inputs divided by the group. The inputs are the last dimension,
// or with `inputsFirst` the last but one.
struct WeightEncoding {
  WeightFormat format;
  bool inputsFirst = false;
};

// Where the elements of the checkpoint's tensors come from. All are called from several threads at
// once.
struct WeightReader {
  // Elements [begin, begin + out.size()) of a tensor, in its row-major order.
  std::function<llvm::Error(llvm::StringRef tensor, int64_t begin,
                            llvm::MutableArrayRef<float> out)>
      read;
  std::function<llvm::Expected<llvm::SmallVector<int64_t>>(llvm::StringRef tensor)> shape;
  // May be empty: then no tensor is made of codes.
  std::function<std::optional<WeightEncoding>(llvm::StringRef tensor)> encoding;
};

// Packs one weight, piece by piece: a piece is 8 MiB of the result or less, in order, unless one
// panel is larger, and packing it takes some 2 MiB besides, or 512 bytes for each column where that
// is more. Constant once created: pieces may be packed by several threads at once.
//
// A source that the checkpoint has as codes of the packing's own format keeps its codes, with their
// scales and zeros; other elements are quantized (Quantize.h).
class Packer {
public:
  struct Options {
    // Otherwise a value that is not finite, or not after rounding to the storage, is an error. It
    // always is one where codes are stored.
    bool allowNonFinite = false;
    ScaleChoice scales = ScaleChoice::LeastSquares;
  };

  // `reader` must outlive the packer. Fails where the sources do not fit the checkpoint or the
  // type.
  static llvm::Expected<Packer> create(llvm::StringRef name, mlir::RankedTensorType type,
                                       mlir::ArrayAttr sources, plan::PackingAttr packing,
                                       const WeightReader &reader, Options options);

  struct Piece {
    int64_t offset, bytes; // of the packed weight
  };
  int64_t bytes() const { return layout.bytes(); }
  int64_t pieces() const;
  Piece piece(int64_t index) const;

  // Writes piece `index`; `out` has its size and starts at a multiple of 4.
  llvm::Error pack(int64_t index, llvm::MutableArrayRef<char> out) const;

private:
  // A slice of a checkpoint tensor. The weight's elements [begin, begin + count) are its elements,
  // in row-major order after the transposition.
  struct Source {
    std::string tensor;
    llvm::SmallVector<int64_t> shape, strides, offsets, sizes;
    bool transposed;
    int64_t begin, count;
    int64_t rows = 1, cols = 1; // its matrices, transposed
    int64_t runLength = 1;      // elements that are also neighbours in the checkpoint
    unsigned runDims = 0;       // dimensions that count the runs
    bool strips = false;        // whole rows of the weight are columns of the tensor: read across
    bool coded = false;         // is made of codes of the packing's format

    // Of the first element of run or matrix `index`, counted over the first `dims` dimensions.
    int64_t place(int64_t index, unsigned dims) const;
  };
  // Rows of the weight (of all its matrices) that lie side by side in a panel or strip.
  struct Segment {
    int64_t row, count, panel, lane;
  };
  using Scratch = std::vector<float>;
  struct CodeScratch;

  Packer(const WeightReader &reader, Options options) : reader(reader), options(options) {}
  llvm::Expected<Source> makeSource(std::string tensor, llvm::SmallVector<int64_t> offsets,
                                    llvm::SmallVector<int64_t> sizes, bool transposed,
                                    int64_t begin) const;
  llvm::Error addSource(SourceAttr attr, int64_t begin);
  llvm::Error addGroups(const Source &source, llvm::StringRef companion, std::vector<Source> &out);
  static const Source &sourceOf(llvm::ArrayRef<Source> sources, int64_t element);
  void segments(int64_t matrix, int64_t panel, llvm::SmallVectorImpl<Segment> &out) const;

  llvm::Error read(const Source &source, int64_t place, llvm::MutableArrayRef<float> out) const;
  llvm::Error gather(llvm::ArrayRef<Source> from, int64_t begin,
                     llvm::MutableArrayRef<float> out) const;
  void toStorage(const float *values, int64_t count, char *out) const;
  llvm::Error packPanels(int64_t index, llvm::MutableArrayRef<char> out) const;
  llvm::Error packStraight(const Segment &segment, uint32_t *panel, Scratch &scratch) const;
  llvm::Error packRows(int64_t index, llvm::MutableArrayRef<char> out) const;
  llvm::Error packCodes(int64_t index, llvm::MutableArrayRef<char> out) const;
  llvm::Error codeStraight(int64_t row, int64_t count, CodeScratch &scratch) const;
  llvm::Error codeStrips(int64_t row, int64_t count, CodeScratch &scratch) const;
  llvm::Error recoverRow(int64_t row, int64_t col, llvm::ArrayRef<float> values,
                         CodeScratch &scratch) const;
  llvm::Error quantizeTile(int64_t row, int64_t rows, int64_t col, const float *values,
                           int64_t stride, CodeScratch &scratch) const;
  void placeScale(int64_t row, int64_t col, float scale, CodeScratch &scratch) const;
  void placeRow(int64_t row, int64_t col, const uint8_t *codes, CodeScratch &scratch) const;
  bool placeTile(int64_t row, int64_t col, CodeScratch &scratch) const;
  std::string where(int64_t row, int64_t col) const;
  // Calls `use` with blocks [columns, width] of the rows [row, row + count), which one source of
  // strips holds.
  llvm::Error forStrips(
      int64_t row, int64_t count, Scratch &scratch,
      llvm::function_ref<void(int64_t row, int64_t width, int64_t col, int64_t cols)> use) const;
  // Calls `use` with parts of the rows that are either in strips of one matrix or not in strips.
  llvm::Error
  forBands(int64_t row, int64_t count,
           llvm::function_ref<llvm::Error(int64_t row, int64_t count, bool strips)> use) const;

  const WeightReader &reader;
  Options options;
  std::string name;
  WeightLayout layout;
  std::vector<Source> sources;
  std::vector<Source> scales, zeros; // of coded sources; an element for each group
  int64_t perPiece = 1;              // panels, strips, or rows
};

} // namespace moe

#endif
