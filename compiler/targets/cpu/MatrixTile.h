// The sums of a tile in registers, where one instruction multiplies a matrix of weights with one of
// activations: two rows of eight bytes by two tokens of as many.
//
// Registers come in pairs, of a vector of rows and a pair of tokens t and u:
//
//   row 0 t, row 0 u, row 1 t, row 1 u...   the first half of the rows
//   row 2 t, row 2 u, row 3 t, row 3 u...   the second half, here of four rows
//
// and their weights are two neighbouring units of a panel, whose rows are interleaved likewise: the
// eight bytes of row 0, those of row 1 and so on. So units are interleaved once for all tokens of
// the tile, and sums once at the end.
//
// A sum is that of a tile of one token, bit by bit: integers are exact, and BFMMLA is defined as
// the two BFDOT of its pairs, in order (so it is with FPCR.EBF set, too).
#ifndef MOE_COMPILER_TARGETS_CPU_MATRIXTILE_H
#define MOE_COMPILER_TARGETS_CPU_MATRIXTILE_H

#include "compiler/targets/cpu/CpuKernel.h"

namespace moe::codegen {

class MatrixTile {
public:
  // Of a vector of rows: those of the first half, and those of the second.
  using Weights = std::pair<Val, Val>;

  // Whether the target has such instructions, and the tile tokens for them.
  static bool takes(const CpuTarget &target, int64_t tokens) {
    return target.matrixDots && tokens > 1;
  }
  // Tokens that there are registers for: the last one of an odd number is multiplied twice.
  static int64_t even(int64_t tokens) { return llvm::alignTo(tokens, 2); }

  MatrixTile(CpuKernel &k, int64_t tokens, int64_t vectors)
      : k(k), tokens(tokens), vectors(vectors) {}

  // From sums[t * vectors + v] to registers, and back.
  llvm::SmallVector<Val> arrange(llvm::ArrayRef<Val> sums);
  llvm::SmallVector<Val> separate(llvm::ArrayRef<Val> registers);

  // The halves of two units' vectors of 32 bits a row; without a second one zeros stand for it.
  Weights interleave(Val unit, std::optional<Val> next);

  // Adds the products of two units. `load` gives the weights of vector v, or of that and what
  // follows, as bytes or bf16. The activations of token t are the eight bytes at xs[t]; with `one`
  // unit they are four, and zeros.
  void add(llvm::SmallVectorImpl<Val> &registers, llvm::ArrayRef<Ptr> xs, bool one,
           llvm::function_ref<llvm::SmallVector<Weights, 2>(int64_t)> load);

private:
  Val activations(Ptr x, Ptr y, bool one);

  CpuKernel &k;
  int64_t tokens, vectors;
};

} // namespace moe::codegen

#endif
