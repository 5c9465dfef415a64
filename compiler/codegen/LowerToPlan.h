// From the fused model to the plan: which kernels run in which order on which buffers.
#ifndef MOE_COMPILER_CODEGEN_LOWERTOPLAN_H
#define MOE_COMPILER_CODEGEN_LOWERTOPLAN_H

#include "compiler/codegen/KernelSpec.h"
#include "compiler/codegen/cpu/CpuTarget.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include <vector>

namespace moe::codegen {

// A kernel of the plan, compiled to MLIR for each target, in the order of the targets.
struct PlanKernel {
  explicit PlanKernel(const KernelSpec &spec) : spec(spec), name(nameOf(spec)) {}
  PlanKernel(PlanKernel &&) = default;

  KernelSpec spec;
  std::string name;
  std::vector<mlir::OwningOpRef<mlir::ModuleOp>> modules;
};

struct PlanIr {
  mlir::OwningOpRef<mlir::ModuleOp> module; // of plan ops, memory not planned yet
  std::vector<PlanKernel> kernels;          // in the order of first use
};

struct PlanOptions {
  std::vector<CpuTarget> targets;
  int64_t maxStep = 512; // tokens of the largest program
};

// Lowers `@step` of a fused and packed model (passes/Pipeline.h). Emits a diagnostic and fails
// where the model is not one that the kernels cover.
mlir::FailureOr<PlanIr> lowerToPlan(mlir::ModuleOp model, const PlanOptions &options);

} // namespace moe::codegen

#endif
