// What the kernels of small steps share: the activations of up to eight tokens stay in shared
// memory, as the columns of a product whose rows are weights; a producer warp streams the weights
// through a ring, strip by strip, and eight consumer warps take turns with its tiles.
#ifndef MOE_COMPILER_TARGETS_CUDA_SMALL_H
#define MOE_COMPILER_TARGETS_CUDA_SMALL_H

#include "compiler/targets/cuda/Codes.h"
#include "compiler/targets/cuda/Strips.h"

namespace moe::codegen {

// The strips of a weight as they are streamed, block by block.
struct Stream {
  WeightFormat format;
  std::optional<CodeStrip> codes;
  bool wholeRows = false; // of codes: a block is a tile, and a strip is led by its rows' scales
  int64_t headBytes = 0;  // of a strip, which are not streamed
  int64_t blockColumns = 16, blockBytes = kFragmentBytes; // of bf16: those of one product
  int64_t blocks;                                         // of a strip

  Stream(const WeightFormat &format, int64_t columns);
  int64_t stripBytes() const { return headBytes + blocks * blockBytes; }
};

class Small {
public:
  static constexpr int64_t consumerWarps = 8, consumers = 32 * consumerWarps;

  // `columns`: the most channels of x that are in shared memory at once, a multiple of 64.
  // `streams`: all that it will stream.
  Small(CudaKernel &k, int64_t columns, llvm::ArrayRef<Stream> streams);

  // Runs `produce` in the producer warp and `consume` in the others. Both count stages from 0 and
  // must stream the same ones.
  void run(llvm::function_ref<void()> produce, llvm::function_ref<void()> consume);
  void consumerBarrier() { k.barrier(1, consumers); }

  //===--- Producer ------------------------------------------------------------------------------
  // Streams `blocks` blocks of the strip at `strip`, block `first` and those that follow; returns
  // the count of stages after them.
  Val stream(Val stage, const Stream &stream, Ptr strip, Val first, Val blocks);

  //===--- Consumers -----------------------------------------------------------------------------
  // Makes scaleOf(t) 1 / rms of the n float32 values of the row of each token t < count. By all
  // consumers, with barriers inside.
  void computeScales(Val count, llvm::function_ref<Ptr(Val)> rowOf, int64_t n, float eps);
  Val scaleOf(Val t) { return k.load(k.offset(scales, t * 4), k.f32()); }
  // Sum over the consumers of a value of each; needs the barriers of computeScales.
  Val blockSum(Val x);

  // Clears all of x: columns without a token stay zero.
  void clear();
  // x's channels [first, first + n) of token t < count, in bf16: the row is float32 and is scaled
  // and multiplied with `norm`, or is bf16 already. Channels from `valid` on stay zero.
  void loadNormed(Val count, llvm::function_ref<Ptr(Val)> rowOf, Ptr norm, Val first, Val n,
                  int64_t valid);
  void loadPlain(Val count, llvm::function_ref<Ptr(Val)> rowOf, Val first, Val n);

  // sums + the product of `blocks` streamed blocks of the strip at `strip` with x; where `wanted`
  // is not set in a lane, the column that it loads counts as zero. Returns {stage after, sums}.
  std::pair<Val, CudaKernel::Acc> multiply(Val stage, const Stream &stream, Ptr strip, Val blocks,
                                           const CudaKernel::Acc &sums,
                                           std::optional<Val> wanted = std::nullopt);

  // Adds up the warps' sums. After it `total(i)` is the sum of element i of a strip: of row
  // `rowOf(i)` and token `columnOf(i)`, 128 of them. `turn` counts the strips.
  void exchange(const CudaKernel::Acc &sums, Val turn);
  Val total(Val i, Val turn);
  static Val rowOf(Val i), columnOf(Val i);

private:
  // How the ring is cut: about so many bytes a stage, in blocks of each stream.
  struct Cut {
    int64_t bytes, stages, stageBytes;
    int64_t blocksOf(const Stream &stream) const;
  };
  static Cut cutFor(const CudaTarget &target, int64_t columns, llvm::ArrayRef<Stream> streams);

  // A lane's part of channels 16 tile.. of x, as the second operand of a product.
  llvm::SmallVector<Val> xOf(Val tile, const std::optional<Val> &wanted);
  llvm::SmallVector<Val> multiplyBlock(const Stream &stream, Ptr block, Val xTile,
                                       llvm::ArrayRef<Val> sums, const std::optional<Val> &wanted);

  CudaKernel &k;
  const Cut cut;
  Ring ring;
  Ptr x, partial, scales, warpSums;
  int64_t columns;
};

} // namespace moe::codegen

#endif
