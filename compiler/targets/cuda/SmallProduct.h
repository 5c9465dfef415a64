// y = W x of up to eight tokens: the products of small steps, with what kernels bring to load x and
// to use the sums.
#ifndef MOE_COMPILER_TARGETS_CUDA_SMALLPRODUCT_H
#define MOE_COMPILER_TARGETS_CUDA_SMALLPRODUCT_H

#include "compiler/targets/cuda/Small.h"
#include <functional>

namespace moe::codegen {

// The columns of W are cut into shares, which blocks have as pieces of work: a strip of rows of a
// share, all of a share before the next, so that a block seldom changes its part of x.
class SmallProduct {
public:
  // The experts' part of `down`: a second matrix for each token, whose shares follow.
  struct Routed {
    Ptr weight;  // of all experts
    Ptr experts; // int32 [tokens]
    WeightFormat format;
  };

  // rows, columns: of W. count: tokens, or rows of logits.
  SmallProduct(CudaKernel &k, int64_t rows, int64_t columns, int64_t splits,
               const WeightFormat &format, Ptr weight, Val count,
               const std::optional<Routed> &routed = std::nullopt);

  // What a kernel brings, all of it for the consumer warps.
  struct Parts {
    std::function<void(Small &)> prepare = [](Small &) {}; // before the first piece
    // Loads x's channels [first, first + n); `routed`: those that the experts' matrices multiply.
    std::function<void(Small &, Val first, Val n, bool routed)> loadX;
    // Takes one element of a piece, by 128 threads, of which thread i has element i: of
    // rowOf(strip, i) and token Small::columnOf(i), both maybe beyond the last.
    std::function<void(Val strip, Val share, Val i, Val total)> store;
    std::function<void(Small &)> finish = [](Small &) {}; // after the last piece
  };
  // Parts whose x is the RMSNorm of float32 rows; `store` is left to the caller.
  Parts normed(const std::function<Ptr(Val)> &rowOf, Ptr norm, float eps);

  // The whole kernel. What the parts keep in shared memory is there already.
  void run(const Parts &parts);
  // The whole kernel h += W x, with x: bf16 [tokens, padded(columns)], those of the routed experts
  // after all others; h: float32 [tokens, padded(rows)]. The block that brings a strip's last share
  // adds them up in order, in `partials` and `counters`.
  void runResidual(Ptr x, Ptr h, Ptr partials, Ptr counters);

  Val rowOf(Val strip, Val i) { return strip * kStripRows + Small::rowOf(i); }

private:
  int64_t pieces() const { return strips * splits; }

  // A share of a matrix, counted in blocks of its stream.
  struct Share {
    Val first, count;
  };
  Share shareOf(Val share, bool routed);
  Ptr stripOf(Ptr matrix, Val strip, bool routed);
  Ptr matrixOf(Val expert);
  Val expertOf(Val t);
  Val streamShare(Small &small, Val stage, Ptr matrix, Val strip, Val share, bool routed);

  using Values = llvm::SmallVector<Val>;
  Val firstFrom(int64_t low);
  Values eachPiece(int64_t low, int64_t high, llvm::ArrayRef<Val> init,
                   llvm::function_ref<Values(Val, Val, llvm::ArrayRef<Val>)> body);
  Values eachExpert(llvm::ArrayRef<Val> init,
                    llvm::function_ref<Values(Val, llvm::ArrayRef<Val>)> body);

  void produce(Small &small);
  void consume(Small &small, const Parts &parts);
  Values consumePieces(Small &small, const Parts &parts, int64_t low, bool routed,
                       llvm::ArrayRef<Val> init);

  CudaKernel &k;
  const int64_t rows, columns, splits;
  const Ptr weight;
  const Val count;
  const std::optional<Routed> routed;
  const int64_t strips = llvm::divideCeil(rows, kStripRows);
  const Stream stream, routedStream;
  const int64_t shareBlocks = llvm::divideCeil(stream.blocks, splits);
  const int64_t routedShareBlocks = llvm::divideCeil(routedStream.blocks, splits);
};

} // namespace moe::codegen

#endif
