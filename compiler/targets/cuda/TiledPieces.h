// The work of the products of larger steps: which rows of which weight a block multiplies by which
// tokens, piece by piece, and how these weights lie in memory.
#ifndef MOE_COMPILER_TARGETS_CUDA_TILEDPIECES_H
#define MOE_COMPILER_TARGETS_CUDA_TILEDPIECES_H

#include "compiler/targets/cuda/Codes.h"
#include "compiler/targets/cuda/ExpertTiles.h"
#include "compiler/targets/cuda/Strips.h"

namespace moe::codegen {

inline constexpr int64_t kPieceStrips = 8;   // of a piece
inline constexpr int64_t kStageColumns = 64; // 128 bytes of a row of x

// A product with one weight, or with those of a shared and of routed experts.
struct TiledShape {
  int64_t inputs, outputs; // channels of a row of x and of a row of the result
  WeightFormat format;     // of a plain weight, or the shared expert's
  int64_t experts = 0;
  WeightFormat routed = format;
  int64_t stripOutputs = kStripRows; // channels of the result that a strip makes
  // The shared expert's columns and the routed one's are one K, with rows of x of their own.
  bool joinsK = false;
  bool ofRows = false; // x has the step's rows of logits, not its tokens

  int64_t stages() const { return padded(inputs) / kStageColumns; } // of all columns
  int64_t strips() const { return llvm::divideCeil(outputs, stripOutputs); }
};

// How the strips of a matrix lie in memory and in a stage.
struct TiledStrips {
  std::optional<CodeStrip> layout;
  std::optional<Codes> codes;
  bool wholeRows = false;   // of codes: their scales come before the columns of a strip
  int64_t bytes;            // of a strip
  int64_t columnsAt = 0;    // where a strip's columns begin
  int64_t headBytes = 0;    // in a stage, of a strip: scales and zeros
  int64_t stageBytes;       // in a stage, of a strip
  int64_t stageGroups = 1;  // groups of columns in a stage, or 1
  int64_t mostTokens = 128; // of a tile

  TiledStrips(CudaKernel &k, const WeightFormat &format, int64_t inputs, bool wgmma);

  // Whether the sums of a group are apart from the others until they have its scale.
  bool scalesGroups() const { return codes && !wholeRows; }
};

// What a block does at a time: eight strips, times the tokens in places first.. of their list.
struct Piece {
  Val strip, first, count;
  Val matrix; // of the routed experts'; 0 where it is not of them
  Val routed; // i1: whether tokens are listed in `order`
};

// A piece is multiplied in runs of stages, of which each ends with what becomes of its sums. `down`
// has one of both experts' columns where all sums may be added up, and otherwise one of each.
struct Run {
  enum Of { Shared, Routed, Either, Both }; // Either: what the piece is of

  TiledStrips *strips;
  Of of;
  int64_t first, stages; // of the piece's
};

// The order of pieces: those of the same rows of a weight are neighbours, and so run at the same
// time. First come all tiles of tokens for the shared expert, or for a plain weight; then, expert
// by expert, its group's. `down` has groups alone: all groups for the same rows, since the shared
// expert's weights are the same for them.
class TiledPieces {
public:
  // In global memory; without experts the first alone.
  struct Operands {
    Ptr weight, routedWeight, order, offsets;
  };

  // At most `tile` tokens at a time; fewer where the formats leave less room.
  TiledPieces(CudaKernel &k, const TiledShape &shape, int64_t tile, const Operands &operands);

  const TiledShape shape;
  // Products by wgmma, and the tokens of a tile.
  const bool wgmma;
  TiledStrips shared, routed; // the first also of a plain weight
  const int64_t tile;

  // By the first warp, before a barrier of the block; and after it.
  void list() {
    if (shape.experts)
      groups.list(operands.offsets);
  }
  void listed() {
    if (shape.experts)
      routedTiles = groups.before(k.i32(shape.experts));
  }

  // Pieces whose weights the tokens alone tell; they come first.
  bool hasPlain() const { return !shape.joinsK; }
  Val plainPieces() { return hasPlain() ? plainTiles() * rowTiles() : k.i32(0); }
  Piece plainPiece(Val item);
  Run plainRun() { return {&shared, Run::Shared, 0, shape.stages()}; }

  int64_t stagesPerPiece() const { return shape.stages() * (shape.joinsK ? 2 : 1); }
  // All pieces of the block, each with the number of its first stage; returns how many stages there
  // were.
  Val eachPiece(llvm::function_ref<void(const Piece &, Val)> body);
  void eachRun(const Piece &p, llvm::function_ref<void(const Run &)> body);

  // The token in a place of the piece's list.
  Val tokenIn(const Piece &p, Val place);

  // Where strip `strip` of a piece begins in what a run reads: of Both, in both matrices.
  struct Weights {
    Ptr first, second;
  };
  Weights weightsOf(const Piece &p, const Run &run, Val strip);
  // Of stage j of a run, what it has of that strip: scales and zeros, of codes, and columns.
  struct Parts {
    Ptr head, columns;
  };
  Parts partsAt(const Weights &w, const Run &run, Val j);
  // Whether stage j of a run is of the routed expert's K, and the number of its columns' stage.
  std::pair<Val, Val> columnsOf(const Run &run, Val j);

private:
  int64_t rowTiles() const { return llvm::divideCeil(shape.strips(), kPieceStrips); }
  Val allTokens() { return shape.ofRows ? k.rows() : k.tokens(); }
  Val plainTiles() { return ceilDiv(allTokens(), tile); }
  Val pieces() { return shape.experts ? plainPieces() + routedTiles * rowTiles() : plainPieces(); }
  Piece tileOf(Val rowTile, Val matrix, Val begin, Val n, Val index, Val tiles, Val routed);
  Piece routedPiece(Val item);
  Piece pieceOf(Val item);
  Ptr either(Val condition, Ptr a, Ptr b) {
    return k.ptr(select(condition, k.val(a.value), k.val(b.value)).value);
  }

  CudaKernel &k;
  Operands operands;
  ExpertTiles groups;
  Val routedTiles{};
};

} // namespace moe::codegen

#endif
