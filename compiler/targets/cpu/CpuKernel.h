// What CPU kernels are built of: the calling convention of runtime/device/cpu/KernelAbi.h, scratch
// memory, the product of activations with a weight panel, and loops over channels.
#ifndef MOE_COMPILER_TARGETS_CPU_CPUKERNEL_H
#define MOE_COMPILER_TARGETS_CPU_CPUKERNEL_H

#include "compiler/kernels/ActivationRow.h"
#include "compiler/targets/Builder.h"
#include "compiler/targets/cpu/CpuTarget.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"

namespace moe::codegen {

// Rows of activations or of results: row i of a product is at `base + stride * ids[i]`.
struct Rows {
  Ptr base;
  int64_t stride; // bytes
  Ptr ids;        // int32
};

// Which of the tiles that take the same panel in turn. Each fetches a part of the panel that lies
// `panels` after it, so that the first of that one's tiles does not wait for memory.
struct Turn {
  Val index, count;
  int64_t panels = 1;
};

// Unit u of a tile's row brings `bytes`, whole lines, at from + u * step into the second-level
// cache.
struct FetchAhead {
  Ptr from;
  Val step;
  int64_t bytes = 64;
};

// What workers that claim parts of their work count on.
struct Claims {
  Ptr counter;   // int32, zero before and after
  int64_t least; // units of work that a part has, at least
};

struct TileOperands; // compiler/targets/cpu/CodeTile.h
struct AmxOperands;  // compiler/targets/cpu/AmxTile.h

class CpuKernel : public Builder {
public:
  // Starts the function `name` in `module`, which is passed `operands`.
  CpuKernel(mlir::ModuleOp module, const CpuTarget &target, llvm::StringRef name,
            const Operands &operands);
  // Ends the function; the scratch memory that it needs becomes attributes of it.
  void finish();

  const CpuTarget &target;
  Val tokens, rows, tableStride, worker, workers; // i64

  // One that the kernel's contract has.
  Ptr operand(Operand operand);
  // Memory of this worker: a fixed part, and a part for each token. Sizes are rounded to 64 bytes.
  Ptr scratch(int64_t bytes, int64_t bytesPerRow = 0);
  // From here on, before any scratch memory, the parts are for each row of logits.
  void scratchByRows() { scratchRows = rows; }
  // This worker's part of [0, n): contiguous, equal to one.
  std::pair<Val, Val> share(Val n);
  // body(first, last) for parts of [0, n) that together are all of it: this worker's share; or with
  // claims a share of one half, then parts of the rest, smaller and smaller, as workers come for
  // them. So all end together where one is slower than another, and yet a worker has most of what
  // it had the last time in its caches.
  void parts(Val n, const std::optional<Claims> &claims,
             llvm::function_ref<void(Val first, Val last)> body);
  // For parts of a weight, of whose units each has so many bytes, of a kernel that may have
  // Counters: those that it has for nothing else.
  std::optional<Claims> claims(int64_t unitBytes);
  // Adds 1 to an int32 counter that others wait for, after what this worker wrote so far, and
  // returns what it was. What those wrote who came before is then visible.
  Val arrive(Ptr counter);
  // The last worker to call it makes `bytes` at `counters` zero; the first counter is for that.
  // After this a worker uses none of them.
  void leave(Ptr counters, Val bytes);
  // Waits until the counter is `value` (runtime/device/cpu/KernelAbi.h).
  void await(Ptr counter, int64_t value);
  // int32 0, 1, 2... for each row of the step, in scratch memory.
  Ptr identity();

  // out[i][0..63] = x[i] * transpose(panel) for i < count <= tileTokens(format), in float32; with
  // `add` out[i] += that, once it is summed. The sum over k runs in the same order whatever the
  // count, so that a token's result does not depend on its company. Rows of x are as
  // ActivationRow{format, k}.
  void product(const WeightFormat &format, Rows x, Val count, Ptr panel, int64_t k, Rows out,
               bool add = false, std::optional<Turn> turn = {});
  void product(const WeightFormat &format, Rows x, Val count, Ptr panel, int64_t k, Rows out,
               bool add, const std::optional<FetchAhead> &ahead);

  // Rows that a product with weights of this format takes at once.
  int64_t tileTokens(const WeightFormat &format) const { return target.tileTokens(format.element); }

  // The turn of the tile that begins at `row` of so many rows, `tile` at once.
  Turn turn(Val row, Val rows, int64_t tile, int64_t panels = 1) {
    return {row / tile, ceilDiv(rows, tile), panels};
  }

  // The same of a product that `emit` has the tile of, for up to `held` tokens, and `emitAmx`,
  // where there is one, that for more; `name` is of all that the tile depends on.
  void tiles(llvm::StringRef name, Rows x, Val count, Ptr panel, int64_t steps, Rows out,
             int64_t held, llvm::function_ref<void(const TileOperands &)> emit,
             const std::optional<FetchAhead> &ahead = {},
             llvm::function_ref<void(const AmxOperands &)> emitAmx = nullptr);
  // Memory of a tile function, 64-byte aligned, until it returns.
  Ptr onStack(int64_t bytes);
  // Ends a tile's sum: stores it, or adds it to what is there.
  void put(Val sum, Ptr to, bool add);
  // A call of an intrinsic of LLVM.
  Val intrinsic(llvm::StringRef name, mlir::Type result, llvm::ArrayRef<Val> arguments);
  // sum, float32, plus the products of pairs of bf16, two a lane. The target takesBf16().
  Val bf16Dot(Val sum, Val w, Val x);
  // sum, int32, plus the target's dot products of neighbouring codes, four bytes a lane. w is
  // unsigned where the target says so. Not of a target of byte pairs.
  Val codeDot(Val sum, Val w, Val x);
  // The same of two signed words a lane, for targets of byte pairs.
  Val wordDot(Val sum, Val w, Val x);
  // x[2j] cos - x[2j+1] sin, x[2j] sin + x[2j+1] cos; the angles as cosine and sine in turn.
  Val rotatePairs(Val x, Val angles);
  // sum plus products of matrices of two rows of eight bytes, in each 128 bits: of bf16 where the
  // sum is float32, else of unsigned w with signed x. The target has matrixDots.
  Val matrixDot(Val sum, Val w, Val x);
  // What follows reads memory only once these sums, of vectors, are made: LLVM would load all
  // weights of a tile at once, more than there are registers for.
  void loadAfter(llvm::ArrayRef<Val *> sums);
  // Emits what a unit of the tile fetches ahead.
  void fetch(const TileOperands &operands, Val unit);
  // In tiles of one token, which read their panel once, as fast as memory gives: begins to bring
  // what follows the `bytes` at `from` in the stream.
  void fetchStream(const TileOperands &operands, Ptr from, int64_t bytes);
  // Where a tile fetches ahead, begins to bring the rows that it adds to into the second-level
  // cache: rows of many channels are far apart, and their lines share few sets of the caches.
  void fetchOuts(const TileOperands &operands);

  // body(channel, lanes) for vectors that cover [0, n), the last ones narrower.
  void channels(int64_t n, llvm::function_ref<void(Val, int64_t)> body);
  // Sum of squares of n float32 values.
  Val sumOfSquares(Ptr x, int64_t n);
  // The dot products of n float32 values with those of each row.
  llvm::SmallVector<Val> dots(Ptr x, llvm::ArrayRef<Ptr> rows, int64_t n);
  // 1 / sqrt(sum / n + eps), as float32
  Val inverseRms(Val sumOfSquares, int64_t n, float eps);
  // to = x / rms(x) * norm, over n channels, padded with zeros; `to` in the storage type.
  void normRow(Ptr x, Ptr norm, int64_t n, float eps, Storage storage, Ptr to);
  // The same, in the format of a row that feeds a product.
  void normRow(Ptr x, Ptr norm, float eps, const ActivationRow &row, Ptr to);
  // Float32 channels as a row that feeds a product.
  void activationRow(Ptr from, const ActivationRow &row, Ptr to);
  // A part of a row of codes: `from` and `to` are where it begins, at a multiple of row.unit().
  void quantize(Ptr from, const ActivationRow &row, int64_t channels, Ptr to);
  // One piece of any length, laid out as those of the row.
  void quantizePiece(Ptr from, const ActivationRow &row, int64_t columns, Ptr to);

  // `lanes` values of f32, bf16 or f16 as float32; 0 lanes: a scalar.
  Val loadFloats(Ptr from, int64_t lanes, Storage storage);
  // float32 lanes as the storage type.
  Val toStorage(Val x, Storage storage);
  mlir::Type typeOf(Storage storage) { return storage == Storage::F32 ? f32() : bf16(); }

private:
  mlir::func::FuncOp chooser(llvm::StringRef product, mlir::TypeRange types, int64_t aheadBytes,
                             int64_t held, llvm::function_ref<void(const TileOperands &)> emit,
                             llvm::function_ref<void(const AmxOperands &)> emitAmx);
  // A private function of the module; goes on inside of it.
  mlir::func::FuncOp startFunction(const llvm::Twine &name, mlir::TypeRange types);
  mlir::func::FuncOp amxFunction(llvm::StringRef product, mlir::TypeRange types, int64_t aheadBytes,
                                 llvm::function_ref<void(const AmxOperands &)> emit);
  mlir::func::FuncOp tileFunction(llvm::StringRef product, mlir::TypeRange types, int64_t count,
                                  int64_t aheadBytes,
                                  llvm::function_ref<void(const TileOperands &)> emit);
  void emitTile(Storage storage, const TileOperands &operands, bool add);
  // Adds to sums[t * vectors + v] of a tile of bf16 all of the row, in matrices; the vectors are of
  // the rows from `row` on.
  llvm::SmallVector<Val> matrixSums(const TileOperands &operands, int64_t row,
                                    llvm::ArrayRef<Val> sums);
  void emitWideTile(const TileOperands &operands, bool add);

  mlir::ModuleOp module;
  mlir::func::FuncOp function;
  const Operands names;
  mlir::Value operands, step, scratchBase;
  Val scratchRows;
  int64_t scratchFixed = 0, scratchPerRow = 0;
  Ptr identityIds{};
};

// Pieces of work in an order that all workers walk alike; each is done by one of them.
class Pieces {
public:
  // `claimed`, an i1: each worker claims one after the other by the counter, an int32 that someone
  // must make zero again afterwards. Otherwise the pieces are divided by number, and there may be
  // no counter.
  Pieces(CpuKernel &k, Val claimed, Ptr counter);
  // The next piece. `owner`: whose it is, where they are divided by number.
  void piece(Val owner, llvm::function_ref<void()> body);

private:
  CpuKernel &k;
  Val claimed;
  Ptr counter, index, mine; // i64: of the piece at hand, and of the next that this worker does
};

} // namespace moe::codegen

#endif
