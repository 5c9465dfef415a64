// Finds in CUDA kernels what LLVM or the hardware would silently get wrong.
#ifndef MOE_COMPILER_TARGETS_CUDA_HAZARDCHECK_H
#define MOE_COMPILER_TARGETS_CUDA_HAZARDCHECK_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

namespace moe::codegen {

// Checks a module of kernels in the LLVM dialect, as it will be translated; each finding is an
// error that says what would happen and what to write instead.
mlir::LogicalResult checkNvvmHazards(mlir::ModuleOp module);

// The same as the pass --moe-check-nvvm-hazards.
std::unique_ptr<mlir::Pass> createCheckNvvmHazards();
void registerCheckNvvmHazards();

} // namespace moe::codegen

#endif
