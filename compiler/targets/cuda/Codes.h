// Fragments of codes (runtime/weights/Layout.h) on their way to the tensor cores: in registers a
// lane turns them into the pairs of bf16 that the first operand of a product is, without rounding.
// What is multiplied is code - zero; the scale of a group is for its sums.
#ifndef MOE_COMPILER_TARGETS_CUDA_CODES_H
#define MOE_COMPILER_TARGETS_CUDA_CODES_H

#include "compiler/targets/cuda/CudaKernel.h"
#include "dialects/plan/Packing.h"

namespace moe::codegen {

// Whether a row's codes are one group: then its scale is for the sums over all of them, and is read
// from memory where the others come with the codes of their group.
inline bool scalesWholeRows(const WeightFormat &format, const CodeStrip &strip) {
  return strip.blocks == 1 && strip.groupsPerBlock == 1 && !format.zeros;
}

class Codes {
public:
  Codes(CudaKernel &k, const WeightFormat &format, const CodeStrip &strip)
      : k(k), format(format), strip(strip) {}

  // Of the rows g and g + 8 of a lane.
  using Rows = std::array<Val, 2>;
  // Of group `group` of a block whose head is at `head`: scales, and what turns codes into values,
  // which are constants of formats without zeros.
  Rows scales(Ptr head, int64_t group);
  Rows biases(Ptr head, int64_t group);

  // Of a tile of 64 columns in shared memory: what a lane has of it.
  llvm::SmallVector<Val> load(Ptr tile);
  // The first operand of product k16 of the tile's four.
  llvm::SmallVector<Val> operand(llvm::ArrayRef<Val> tile, int64_t k16, const Rows &biases);

  // Groups that a tile has, or 1, and products that a group's sums run over within a tile.
  int64_t groupsOfTile() const { return strip.groupsPerBlock; }
  bool zeros() const { return format.zeros; }
  bool wholeRows() const { return scalesWholeRows(format, strip); }
  // Before the codes of a stage.
  int64_t headBytes() const { return wholeRows() ? 0 : strip.headBytes; }
  int64_t productsOfGroup() const { return 4 / strip.groupsPerBlock; }
  // sums + scale * part, of accumulators: rows g, g, g + 8, g + 8.
  static void add(llvm::MutableArrayRef<Val> sums, llvm::ArrayRef<Val> part, const Rows &scales);

private:
  Val fourBits(Val word, int64_t pair), eightBits(Val word, int64_t pair);
  Val fp8(Val word, int64_t pair);
  Val fma2(Val a, Val b, Val c); // of pairs of bf16

  CudaKernel &k;
  WeightFormat format;
  CodeStrip strip;
};

// What a lane has of 64 columns of a strip, of bf16 or of codes: registers as they lie in memory,
// and for codes with zeros what those of each group are.
class StageStrip {
public:
  // `at`: in shared memory, the head of codes and a tile, or four tiles of bf16.
  StageStrip(CudaKernel &k, std::optional<Codes> &codes, Ptr at);
  // From values(), which a loop carries.
  StageStrip(std::optional<Codes> &codes, llvm::ArrayRef<Val> values);
  llvm::SmallVector<Val> values() const;

  // The first operand of product k16 of four.
  llvm::SmallVector<Val> operand(int64_t k16);

private:
  Codes *codes; // null: bf16
  llvm::SmallVector<Val> words;
  llvm::SmallVector<Codes::Rows> biases; // of each group in the 64 columns
};

} // namespace moe::codegen

#endif
