// From the fused model to the plan of a CPU: which kernels run in which order on which buffers.
#ifndef MOE_COMPILER_TARGETS_CPU_LOWERTOCPU_H
#define MOE_COMPILER_TARGETS_CPU_LOWERTOCPU_H

#include "compiler/kernels/Contract.h"
#include "compiler/targets/cpu/CpuTarget.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include <vector>

namespace moe::codegen {

// A kernel of the plan, compiled to MLIR for each target, in the order of the targets.
struct CpuPlanKernel {
  explicit CpuPlanKernel(ChosenKernel<CpuKernel> chosen) : chosen(std::move(chosen)) {}
  CpuPlanKernel(CpuPlanKernel &&) noexcept = default;

  ChosenKernel<CpuKernel> chosen;
  std::vector<mlir::OwningOpRef<mlir::ModuleOp>> modules;
};

struct CpuPlan {
  mlir::OwningOpRef<mlir::ModuleOp> module; // of plan ops, memory not planned yet
  std::vector<CpuPlanKernel> kernels;       // in the order of first use
};

// Builds the module of one kernel: one public function, named as the kernel, with the attributes
// moe.scratch_fixed and moe.scratch_per_row (bytes), and the private functions that it calls.
mlir::OwningOpRef<mlir::ModuleOp> emitKernel(mlir::MLIRContext *context,
                                             const ChosenKernel<CpuKernel> &kernel,
                                             const CpuTarget &target);

// Lowers `@step` of a model that is fused, and packed for a CPU (passes/Pipeline.h), with programs
// of up to `maxStep` tokens. Emits a diagnostic and fails where the model is not one that the
// kernels cover.
mlir::FailureOr<CpuPlan> lowerToCpu(mlir::ModuleOp model, llvm::ArrayRef<CpuTarget> targets,
                                    int64_t maxStep);

} // namespace moe::codegen

#endif
