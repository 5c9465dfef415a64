// What CUDA kernels are built of: the calling convention of runtime/device/cuda/KernelAbi.h, shared
// memory, barriers, asynchronous copies, warp shuffles and the tensor cores' products.
//
// Integers are i32 unless said otherwise. Pointers know their address space: operands are in global
// memory, what shared() gives is in shared memory. A vector of more than one element is loaded and
// stored as a whole by load() and store(): its address must be a multiple of its size.
#ifndef MOE_COMPILER_TARGETS_CUDA_CUDAKERNEL_H
#define MOE_COMPILER_TARGETS_CUDA_CUDAKERNEL_H

#include "compiler/kernels/Contract.h"
#include "compiler/targets/Builder.h"
#include "compiler/targets/cuda/CudaTarget.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/StringMap.h"
#include <array>

namespace moe::codegen {

// The type of the values that a product takes; sums are float32.
enum class Half { BF16, F16 };
inline Half halfOf(Storage s) { return s == Storage::F16 ? Half::F16 : Half::BF16; }

class CudaKernel : public Builder {
public:
  // Starts the entry `name` in `module`, which is passed `operands` and then its StepInfo.
  CudaKernel(mlir::ModuleOp module, const CudaTarget &target, llvm::StringRef name,
             const Operands &operands);
  // Ends the entry.
  void finish();

  // How the kernel is launched: threads of a block, and blocks that are resident together on a
  // multiprocessor. Set before finish().
  int64_t threads = 256, blocksPerSm = 1;

  const CudaTarget &target;

  //===--- Where it runs -------------------------------------------------------------------------
  Val thread(), lane(), warp(); // in the block; in the warp; of the block
  Val block(), blocks();
  // Of the step, from its StepInfo. Known before the kernel before this one has ended.
  Val tokens(), rows(), tableStride();

  //===--- Values --------------------------------------------------------------------------------
  using Builder::i32;
  Val i32(int64_t value) { return constant(i32(), double(value)); }
  // The lanes of a vector, and a vector of scalars.
  Val at(Val vector, int64_t lane);
  Val vectorOf(llvm::ArrayRef<Val> scalars);
  Val shiftRight(Val x, int64_t bits); // unsigned
  // The 32-bit value x, computed here: what follows from it is not computed before the loops around
  // it, where it would hold registers all along.
  Val here(Val x);
  Val exp2(Val x); // two units in the last place; 0 for minus infinity
  Val sigmoid(Val x);
  Val sqrt(Val x);
  Val inverseRms(Val sumOfSquares, int64_t n, float eps); // 1 / sqrt(sum / n + eps)
  // Two float32 as two 16-bit floats in an i32, rounded to nearest even; `low` has the lower
  // address.
  Val pack(Half type, Val low, Val high);
  std::pair<Val, Val> unpack(Half type, Val pair); // float32

  //===--- Memory --------------------------------------------------------------------------------
  Ptr operand(Operand operand); // one that the kernel's contract has
  // The next `bytes` of the block's dynamic shared memory.
  Ptr shared(int64_t bytes, int64_t alignment = 128);
  Val load(Ptr p, mlir::Type type, bool constantMemory = false); // constantMemory: ld.global.nc
  void store(Ptr p, Val value);
  Val addressOf(Ptr sharedPtr);                    // of shared memory, 32 bits
  Ptr offset(Ptr p, Val bytes);                    // bytes: i32 that is not negative, or i64
  Ptr constantTable(llvm::ArrayRef<float> values); // float32, in constant memory

  //===--- Ordering ------------------------------------------------------------------------------
  void barrier();                      // of the block
  void barrier(int64_t id, int64_t n); // named, ids 1 to 15, of `n` threads
  void syncWarp();
  // Waits for the kernels before this one; on targets without dependent launch they have ended.
  // Every block must come by here before it touches what they write.
  void waitForPrevious();
  // Lets the next kernel start; it waits for this one's end before it reads its results.
  void startNext();
  Val atomicAdd(Ptr counter, Val x); // acquire and release, of the device; returns the old value
  void releaseAdd(Ptr counter, Val x);
  Val loadAcquire(Ptr counter);
  // Spins until the counter has reached `value`.
  void awaitCounter(Ptr counter, Val value);

  //===--- Warps ---------------------------------------------------------------------------------
  Val shuffleXor(Val x, int64_t mask); // i32 or f32
  Val shuffle(Val x, Val lane);
  using Builder::shuffle;
  Val warpSum(Val x, int64_t lanes = 32); // over groups of `lanes` neighbours; in every lane
  Val warpScan(Val x);                    // i32: the sum over this lane and those before it
  Val one();                              // true in one lane of the warp

  //===--- Control -------------------------------------------------------------------------------
  void ifElse(Val condition, llvm::function_ref<void()> yes, llvm::function_ref<void()> no);
  llvm::SmallVector<Val> choose(Val condition, llvm::function_ref<llvm::SmallVector<Val>()> yes,
                                llvm::function_ref<llvm::SmallVector<Val>()> no);

  //===--- Asynchronous copies and their barriers ------------------------------------------------
  // A run of `count` mbarriers, 8 bytes each.
  Ptr mbarriers(int64_t count) { return shared(count * 8, 8); }
  void initBarrier(Ptr mbarrier, int64_t arrivals); // by one thread
  void barriersInitialised();                       // by that thread, before the block's barrier()
  void arrive(Ptr mbarrier);
  void arriveExpecting(Ptr mbarrier, Val bytes); // and bytes of bulk copies
  void waitBarrier(Ptr mbarrier, Val parity);    // until the phase of that parity has ended
  // One thread copies `bytes`, a multiple of 16; both addresses are multiples of 16. Only where
  // target.bulkCopies.
  void copyBulk(Ptr toShared, Ptr fromGlobal, Val bytes, Ptr mbarrier);
  // Each thread copies 16 bytes; with `valid` false it writes zeros.
  void copy16(Ptr toShared, Ptr fromGlobal);
  void copy16(Ptr toShared, Ptr fromGlobal, Val valid);
  void commitCopies();               // of copy16, of this thread, as a group
  void waitCopies(int64_t inFlight); // until at most that many groups are in flight
  // What this thread wrote to shared memory, also with copy16 that has arrived, becomes visible to
  // those that read it without threads: wgmma and bulk copies. Only where target.bulkCopies.
  void fenceProxy();
  void arriveWhenCopied(Ptr mbarrier); // when this thread's copies have arrived; one arrival

  //===--- Tensor cores --------------------------------------------------------------------------
  // c + a b of a warp, m16n8k16: a, b, c as i32, i32, f32 in the order of PTX's fragments.
  using Acc = std::array<Val, 4>;
  Acc mma(Half type, llvm::ArrayRef<Val> a, llvm::ArrayRef<Val> b, const Acc &c);
  Acc zeroAcc();
  // Four 8x8 matrices of 16-bit values; each lane gives the address of one row.
  std::array<Val, 4> loadMatrices(Ptr row, bool transposed = false);

  //===--- PTX -----------------------------------------------------------------------------------
  // Inline PTX; `$0`.. are results, then operands. `volatile_`: has effects, is kept and in order.
  llvm::SmallVector<Val> ptx(llvm::StringRef text, llvm::ArrayRef<mlir::Type> results,
                             llvm::ArrayRef<Val> operands, llvm::StringRef constraints,
                             bool effects = true);
  Val intrinsic(llvm::StringRef name, mlir::Type result, llvm::ArrayRef<Val> operands);

private:
  Val special(llvm::StringRef name);
  Val stepField(int64_t offset);

  mlir::ModuleOp module;
  const Operands names; // of what is passed
  mlir::LLVM::LLVMFuncOp function;
  mlir::Block *entry = nullptr;
  int64_t sharedBytes = 0;
  bool dependent = false;
  llvm::StringMap<mlir::Value> specials;
  mlir::Value sharedBase;
};

// A ring of stages in shared memory that producers fill with weights and consumer warps use. Both
// count stages from 0 on: stage i is in place i % stages.
class Ring {
public:
  // Of one producer warp. By all threads, before the block's first barrier(), which Ring leaves to
  // the kernel. Stages begin at multiples of `alignment`, of which stageBytes is one.
  Ring(CudaKernel &k, int64_t stages, int64_t stageBytes, int64_t consumerWarps,
       int64_t alignment = 128);
  // Of so many producer threads, each of which arrives at full(i) when its copies to stage i are
  // there. The first of their warps alone begins stages and makes bulk copies, where the target has
  // them. One thread calls initialise(), and its warp may fill stages before the block's barrier.
  Ring(CudaKernel &k, int64_t stages, int64_t stageBytes, int64_t consumerWarps, int64_t alignment,
       int64_t producers);
  void initialise();

  // Producer warps, all lanes: the place of stage i, once consumers have left it.
  Ptr acquire(Val i);
  // Producer warp, all lanes: copies `bytes` (a multiple of 512) from `from` to `offset` in the
  // place of stage i. With bulk copies, `begin` says once how many bytes the stage will get.
  void begin(Val i, Val bytes);
  void copy(Val i, Ptr place, Ptr from, Val bytes);
  void end(Val i); // when all copies of the stage were issued
  Ptr full(Val i); // the barrier at which copies to stage i arrive
  // Consumer warps: the place of stage i, filled.
  Ptr await(Val i);
  Ptr at(Val i); // of a stage that was awaited
  void release(Val i);

private:
  static constexpr int64_t kWarpBytes = 32 * 16; // that a warp copies at once

  Ptr empty(Val i);
  Val place(Val i), parity(Val i);

  CudaKernel &k;
  int64_t stages, stageBytes, consumerWarps, producers;
  Ptr memory, fullBarriers, emptyBarriers;
};

} // namespace moe::codegen

#endif
