// From the fused model to the plan of a GPU: which kernels run in which order on which buffers.
#ifndef MOE_COMPILER_TARGETS_CUDA_LOWERTOCUDA_H
#define MOE_COMPILER_TARGETS_CUDA_LOWERTOCUDA_H

#include "compiler/targets/cuda/CudaSpec.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include <vector>

namespace moe::codegen {

struct CudaPlan {
  mlir::OwningOpRef<mlir::ModuleOp> module; // of plan ops, memory not planned yet
  std::vector<CudaSpec> kernels;            // in the order of first use
};

// Lowers `@step` of a model that is fused, and packed for CUDA (passes/Pipeline.h), with programs
// of up to `maxStep` tokens. The plan is the same for all targets. Emits a diagnostic and fails
// where the model is not one that the kernels cover.
mlir::FailureOr<CudaPlan> lowerToCuda(mlir::ModuleOp model, int64_t maxStep);

} // namespace moe::codegen

#endif
