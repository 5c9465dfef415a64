// The products of larger steps: a weight times the rows of x of some tokens. What becomes of the
// sums is an epilogue's, which a kernel brings.
#ifndef MOE_COMPILER_TARGETS_CUDA_TILEDPRODUCT_H
#define MOE_COMPILER_TARGETS_CUDA_TILEDPRODUCT_H

#include "compiler/targets/cuda/TiledPieces.h"
#include "compiler/targets/cuda/Wgmma.h"

namespace moe::codegen {

class TiledProduct {
public:
  static constexpr int64_t consumerWarps = 8, producerWarps = 4;

  // Sets the kernel's threads. x: bf16 [tokens, padded(inputs)]; where the shape joins two K, the
  // rows of the second follow those of the first.
  TiledProduct(CudaKernel &k, const TiledShape &shape, int64_t tile, Ptr x,
               const TiledPieces::Operands &operands);

  // What a lane has of a strip and eight tokens of a piece: with g = lane / 4, rows g and g + 8 of
  // the tokens in places `column` and column + 1, in the order (g, column), (g, column + 1),
  // (g + 8, column), (g + 8, column + 1). Both may be beyond the last.
  struct Sums {
    const Piece &piece;
    Val strip, column;
    llvm::ArrayRef<Val> values;
  };
  using Epilogue = llvm::function_ref<void(const Sums &)>;

  // The whole kernel. The consumer warps give the epilogue the sums of each run of a piece.
  void run(Epilogue epilogue);

  //===--- What epilogues are written with -------------------------------------------------------
  // The token in a place of the piece's list.
  Val tokenIn(const Piece &p, Val place) { return work.tokenIn(p, place); }
  // The first of the lane's two rows of the result.
  Val rowOf(const Sums &sums) { return sums.strip * kStripRows + k.shiftRight(k.lane(), 2); }
  // Calls `use` with each sum that is of a row and of a token, and its address in `out`: float32
  // [tokens, width]. Of a token's only where `wanted(place)`, whose place may be beyond the last.
  void eachSum(const Sums &sums, Ptr out, int64_t width, llvm::function_ref<void(Ptr, Val)> use,
               llvm::function_ref<Val(Val)> wanted = nullptr);
  // Adds the sums to the rows of h, float32 [tokens, padded(outputs)].
  void addTo(Ptr h, const Sums &sums);

private:
  //===--- Producers -----------------------------------------------------------------------------
  Val stageCount(const Run &run);
  void copyWeights(const Piece &p, const Run &run, const TiledPieces::Weights &w, Val i, Val j);
  void copyChunks(const Piece &p, const TiledStrips &strips, const TiledPieces::Parts &from, Ptr to,
                  Val me);
  Val prefetched();
  void prefetch();
  void produce();

  //===--- Consumers -----------------------------------------------------------------------------
  StageStrip loadStrip(TiledStrips &strips, Ptr place, Val strip);
  Codes::Rows rowScales(const Piece &p, const Run &run, Val strip);
  SharedOperand rowsOf(Ptr place);
  void multiply(const Piece &p, const Run &run, Val base, int64_t width, Epilogue epilogue);
  void multiplyAsync(const Piece &p, const Run &run, Val base, int64_t width, Epilogue epilogue);
  void consume(Epilogue epilogue);
  void finish(const Piece &p, Val strip, Val first, llvm::ArrayRef<Val> sums, Epilogue epilogue);

  CudaKernel &k;
  const TiledShape shape;
  Ptr x;
  TiledPieces work;
  const bool wgmma = work.wgmma;
  const int64_t tile = work.tile;
  const int64_t columns = padded(shape.inputs), stripCount = shape.strips();
  const int64_t stagesPerPiece = work.stagesPerPiece();
  // In a stage, of all strips.
  const int64_t weightBytes =
      llvm::alignTo(kPieceStrips * std::max(work.shared.stageBytes, work.routed.stageBytes), 1024);

  // Most of what a block may have; on sm_90 the rest is left to the cache.
  const int64_t stageBytes = weightBytes + tile * kStageColumns * 2;
  const int64_t room = std::min<int64_t>(200 * 1024, k.target.sharedBytes - 2560);
  const int64_t stages = std::min<int64_t>(8, room / stageBytes);
  Ring ring{k, stages, stageBytes, consumerWarps, /*alignment=*/1024, 32 * producerWarps};
};

} // namespace moe::codegen

#endif
