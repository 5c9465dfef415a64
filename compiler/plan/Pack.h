// Makes the bytes of a packed weight out of the checkpoint tensors that it is made of.
#ifndef MOE_COMPILER_PLAN_PACK_H
#define MOE_COMPILER_PLAN_PACK_H

#include "compiler/plan/Quantize.h"
#include "dialects/plan/Packing.h"
#include "runtime/weights/TensorSlice.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/Error.h"

#include <string>
#include <vector>

namespace moe {

// Packs one weight, piece by piece: a piece is 8 MiB of the result or less, in order, unless one
// panel is larger, and packing it takes some 2 MiB besides, or 512 bytes for each column where that
// is more. Constant once created: pieces may be packed by several threads at once.
//
// A slice that the checkpoint has as codes of the packing's own format keeps its codes, with their
// scales and zeros; other elements are quantized (Quantize.h).
class Packer {
public:
  struct Options {
    // Otherwise a value that is not finite, or not after rounding to the storage, is an error. It
    // always is one where codes are stored.
    bool allowNonFinite = false;
    ScaleChoice scales = ScaleChoice::LeastSquares;
  };

  // `slices` are the weight's elements, one after the other; `tensors` must outlive the packer.
  // Fails where the slices do not fit the checkpoint or the type.
  static llvm::Expected<Packer> create(llvm::StringRef name, mlir::RankedTensorType type,
                                       std::vector<TensorSlice> slices, plan::PackingAttr packing,
                                       const TensorSource &tensors, Options options);

  struct Piece {
    int64_t offset, bytes; // of the packed weight
  };
  int64_t bytes() const { return layout.bytes(); }
  // What is read of the checkpoint to pack all pieces, as it is stored there.
  uint64_t storedBits() const;
  int64_t pieces() const;
  Piece piece(int64_t index) const;

  // Writes piece `index`; `out` has its size and starts at a multiple of 4.
  llvm::Error pack(int64_t index, llvm::MutableArrayRef<char> out) const;

private:
  // The elements of a slice are those of the weight from `begin` on.
  struct Source {
    SliceReader slice;
    int64_t begin;
    bool strips = false; // whole rows of the weight are columns of the tensor: read across
    bool coded = false;  // is made of codes of the packing's format
  };
  // Rows of the weight (of all its matrices) that lie side by side in a panel or strip.
  struct Segment {
    int64_t row, count, panel, lane;
  };
  using Scratch = std::vector<float>;
  struct CodeScratch;

  Packer(const TensorSource &tensors, Options options) : tensors(tensors), options(options) {}
  llvm::Expected<Source> makeSource(TensorSlice slice, int64_t begin) const;
  llvm::Error addSource(TensorSlice slice, int64_t begin);
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

  const TensorSource &tensors;
  Options options;
  std::string name;
  WeightLayout layout;
  std::vector<Source> sources;
  std::vector<Source> scales, zeros; // of coded sources; an element for each group
  int64_t perPiece = 1;              // panels, strips, or rows
};

} // namespace moe

#endif
