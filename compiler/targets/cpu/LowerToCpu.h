// From the fused model to the plan of a CPU: which kernels run in which order on which buffers.
#ifndef MOE_COMPILER_TARGETS_CPU_LOWERTOCPU_H
#define MOE_COMPILER_TARGETS_CPU_LOWERTOCPU_H

#include "compiler/targets/KernelSpec.h"
#include "compiler/targets/cpu/CpuTarget.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include <vector>

namespace moe::codegen {

// A kernel of the plan, compiled to MLIR for each target, in the order of the targets.
struct CpuPlanKernel {
  explicit CpuPlanKernel(const KernelSpec &spec) : spec(spec), name(nameOf(spec)) {}
  CpuPlanKernel(CpuPlanKernel &&) = default;

  KernelSpec spec;
  std::string name;
  std::vector<mlir::OwningOpRef<mlir::ModuleOp>> modules;
};

struct CpuPlan {
  mlir::OwningOpRef<mlir::ModuleOp> module; // of plan ops, memory not planned yet
  std::vector<CpuPlanKernel> kernels;       // in the order of first use
};

// Lowers `@step` of a model that is fused, and packed for a CPU (passes/Pipeline.h), with programs
// of up to `maxStep` tokens. Emits a diagnostic and fails where the model is not one that the
// kernels cover.
mlir::FailureOr<CpuPlan> lowerToCpu(mlir::ModuleOp model, llvm::ArrayRef<CpuTarget> targets,
                                    int64_t maxStep);

} // namespace moe::codegen

#endif
