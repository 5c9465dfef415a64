// From the fused model to the plan of a GPU: which kernels run in which order on which buffers.
#ifndef MOE_COMPILER_TARGETS_CUDA_LOWERTOCUDA_H
#define MOE_COMPILER_TARGETS_CUDA_LOWERTOCUDA_H

#include "compiler/kernels/Contract.h"
#include "compiler/targets/cuda/CudaTarget.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include <vector>

namespace moe::codegen {

struct CudaPlan {
  mlir::OwningOpRef<mlir::ModuleOp> module;      // of plan ops, memory not planned yet
  std::vector<ChosenKernel<CudaKernel>> kernels; // in the order of first use
};

// Builds the module of one kernel: one llvm.func, named as the kernel, with the attributes
// moe.threads, moe.shared_bytes, moe.blocks_per_sm (integers) and, where it waits for the kernel
// before it, moe.dependent. Null, with an error told to the context, where the kernel needs more
// shared memory than a block of the target has.
mlir::OwningOpRef<mlir::ModuleOp> emitKernel(mlir::MLIRContext *context,
                                             const ChosenKernel<CudaKernel> &kernel,
                                             const CudaTarget &target);

// Lowers `@step` of a model that is fused, and packed for CUDA (passes/Pipeline.h), with programs
// of up to `maxStep` tokens. The plan is the same for all targets. Emits a diagnostic and fails
// where the model is not one that the kernels cover.
mlir::FailureOr<CudaPlan> lowerToCuda(mlir::ModuleOp model, int64_t maxStep);

} // namespace moe::codegen

#endif
